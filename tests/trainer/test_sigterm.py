"""A pod that is asked to stop, at any time: what it saves, what it says, and what the next one begins with."""

import json
import math

import pytest

from finetune_api.run import ExitCode
from tests.faulty_s3 import FaultyS3, error
from tests.trainer.lives import TRAINING, Runs, steps


def told(life) -> str:
    """The sentence in the termination message."""
    return str(json.loads(life.message)["error"]["message"])


def test_within_the_training_the_step_is_saved_and_the_next_pod_goes_on_from_it(runs: Runs):
    config = runs.config("training")
    first = runs.live(config, **{"step 3": "SIGTERM"})
    assert first.code == ExitCode.PREEMPTED, first.log
    assert f"Step 3 is saved in {config.output_prefix}checkpoints/00000003-" in told(first)
    assert "nothing was published" in told(first)
    assert runs.checkpoints(config) == [3]
    second = runs.live(config)
    assert (second.code, steps(second)) == (0, [4, 5, 6, 7]), second.log
    assert "resumed at step 3 of 7 from s3://" in second.log
    assert runs.s3.names(f"{config.output_prefix}checkpoints/") == []


def test_while_the_tuned_model_is_measured_the_last_state_is_saved_and_no_step_is_taken_again(runs: Runs):
    config = runs.config("evaluating")
    first = runs.live(config, **{"enter Evaluating": "SIGTERM"})
    assert (first.code, runs.checkpoints(config)) == (ExitCode.PREEMPTED, [TRAINING["maxSteps"]]), first.log
    assert "Step 7 is saved in s3://" in told(first)
    second = runs.live(config)
    assert (second.code, steps(second)) == (0, []), second.log
    assert second.events.count("evaluated") == first.events.count("evaluated")


def test_before_the_training_there_is_nothing_to_save(runs: Runs):
    config = runs.config("downloading")
    life = runs.live(config, **{"answer GET team-a/data": "SIGTERM"})
    assert (life.code, runs.s3.names(config.output_prefix)) == (ExitCode.PREEMPTED, [])
    assert "The next pod goes on from the newest checkpoint, if there is one." in told(life)


@pytest.mark.parametrize("moment", ["send PUT", "answer PUT {prefix}manifest.json", "send GET team-a?list", "the end"])
def test_from_the_publication_on_a_pod_ends_what_it_has_begun(runs: Runs, moment):
    """That takes no longer than to save the state for another pod."""
    config = runs.config("publishing")
    moment = moment.format(prefix=config.output_prefix.removeprefix("s3://"))
    life = runs.live(config, **{f"enter Publishing … {moment}": "SIGTERM"})
    assert life.code == 0, life.log
    assert json.loads(life.message)["outcome"] == "Succeeded"


@pytest.mark.parametrize("moment", ["write weights", "body at", "answer PUT"])
def test_a_second_sigterm_ends_a_pod_at_once_even_while_it_saves(runs: Runs, moment):
    """It says nothing any more. What another thread has finished before it hears of the signal is there, and whole."""
    config = runs.config("twice")
    life = runs.live(config, **{"step 3": "SIGTERM", moment: "SIGTERM"})
    assert (life.code, life.message) == (ExitCode.PREEMPTED, "")
    assert runs.checkpoints(config) in ([], [3])
    runs.require_sound(config)
    assert runs.live(config).code == 0


@pytest.mark.parametrize("fault", [error(403, "AccessDenied"), error(503, "SlowDown")])
def test_where_s3_does_not_take_the_state_a_pod_says_what_is_missing(runs: Runs, faulty: FaultyS3, fault):
    config = runs.config("broken", storage={"endpointUrl": faulty.url})
    faulty.spoil(fault, "PUT", "/checkpoints/", math.inf)
    life = runs.live(config, **{"step 3": "SIGTERM"})
    assert life.code == ExitCode.PREEMPTED, life.log
    assert "Step 3 could not be saved: Cannot write s3://" in told(life)
    assert told(life).endswith("The next pod starts from the beginning.")
    assert runs.s3.names(config.output_prefix) == []


def test_s3_that_takes_no_checkpoints_while_a_model_is_trained_ends_nothing(runs: Runs, faulty: FaultyS3):
    config = runs.config("no-checkpoints", storage={"endpointUrl": faulty.url}, checkpoint={"everySteps": 2})
    faulty.spoil(error(403, "AccessDenied"), "PUT", "/checkpoints/", math.inf)
    life = runs.live(config)
    assert life.code == 0, life.log
    assert "could not be saved (training goes on, and the next checkpoint is tried): Cannot write s3://" in life.log
