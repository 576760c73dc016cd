"""A run that is killed anywhere, and gone on with by other processes, ends in the bits of one that never was.

Processes are killed by SIGKILL at the n-th of the things that happen in them: requests to S3 before they are sent,
while their body is, and once they were answered; files written; steps; batches evaluated; phases.
"""

import random

import pytest

from tests.trainer.lives import TRAINING, Runs, steps

KILLED = -9


def require_the_same_end(runs: Runs, points: int, seed: int) -> None:
    """Kills at ``points`` points that are spread over the whole of a run, and the next process of every second one
    while it goes on from the checkpoint."""
    often = {"checkpoint": {"everySteps": 2}}
    never = runs.config("never", **often)
    whole = runs.live(never)
    assert whole.code == 0, whole.log
    expected, chance = runs.result(never), random.Random(seed)
    assert len(steps(whole)) == TRAINING["maxSteps"]
    for point in range(points):
        share = len(whole.events) / points
        kills = [1 + int(share * (point + chance.random()))]
        if point % 2:
            kills.append(chance.randrange(1, len(whole.events)))
        config = runs.config(f"{seed}-{point}", **often)
        lives = []
        for kill in kills:
            lives.append(runs.live(config, **{str(kill): "SIGKILL"}))
            assert lives[-1].code in (KILLED, 0), lives[-1].log
            runs.require_sound(config)
        lives.append(runs.live(config))
        told = [(life.code, life.events[-1]) for life in lives]
        assert lives[0].code == KILLED, told
        assert lives[-1].code == 0, lives[-1].log
        assert runs.result(config) == expected, told
        assert not [name for name in runs.s3.names(config.output_prefix) if name.startswith("checkpoints/")], told


@pytest.mark.timeout(300)
def test_a_run_that_is_killed_at_some_points_ends_in_the_same_bits(runs):
    require_the_same_end(runs, points=5, seed=1)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_run_that_is_killed_anywhere_ends_in_the_same_bits(runs):
    require_the_same_end(runs, points=30, seed=2)


def test_a_run_with_much_to_remember_is_killed_while_it_measures_and_ends_in_the_same_bits(runs):
    training = TRAINING | {"emaDecay": 0.8, "neftuneAlpha": 5, "optimizer": "sgd", "learningRate": 0.1}
    training |= {"schedule": "plateau", "earlyStopping": {}, "restoreBest": {"metric": "token_accuracy"}}
    changes = {"training": training, "evaluation": {"everySteps": 2}, "checkpoint": {"everySteps": 2}}
    never, config = runs.config("never", **changes), runs.config("killed", **changes)
    assert runs.live(never).code == 0
    first = runs.live(config, **{"step 6 … evaluated": "SIGKILL"})
    saved = runs.checkpoints(config)  # the last one may still have been on its way
    assert (first.code, saved) in [(KILLED, [2]), (KILLED, [2, 4])], first.log
    second = runs.live(config)
    assert (second.code, steps(second)) == (0, list(range(saved[-1] + 1, 8))), second.log
    assert runs.result(config) == runs.result(never)


def test_of_two_pods_that_run_at_once_both_tell_the_same_result(runs):
    never = runs.config("never")
    assert runs.live(never).code == 0
    config = runs.config("both", checkpoint={"everySteps": 1})
    pods = [runs.begin(config), runs.begin(config)]
    lives = [pod.wait() for pod in pods]
    assert [life.code for life in lives] == [0, 0], [life.log for life in lives]
    assert lives[0].message == lives[1].message
    assert runs.result(config) == runs.result(never)
    runs.require_sound(config)
