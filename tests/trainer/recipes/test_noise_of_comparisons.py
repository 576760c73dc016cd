"""Dropout where a model is compared with what it was, or an answer with another one."""

import json
import math
import shutil

import pytest

from tests import tiny
from tests.trainer.recipes.test_kto import FEEDBACK
from tests.trainer.recipes.test_preference import PAIRS

RECORDS = {"dpo": PAIRS, "reward": PAIRS, "kto": FEEDBACK}


@pytest.fixture
def noisy_uri(s3, model_directory, tmp_path):
    """A model whose config.json asks for dropout."""
    directory = shutil.copytree(model_directory, tmp_path / "noisy")
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"attention_dropout": 0.5}))
    return s3.put_directory("models/noisy", directory)


@pytest.mark.parametrize("objective", RECORDS)
def test_it_is_off_unless_it_is_asked_for(trainer, s3, noisy_uri, objective):
    losses = {}
    for name, dropout in {"absent": {}, "none": {"dropout": 0.0}, "much": {"dropout": 0.5}}.items():
        ended = trainer.run(
            model={"uri": noisy_uri},
            method={"objective": objective},
            data=trainer.data(tiny.json_lines(*RECORDS[objective])),
            training={"maxSteps": 1, "maxLength": 64} | dropout,
            outputPrefix=f"s3://team-a/out/noise/{objective}/{name}/",
        )
        assert ended.code == 0, ended.result.error
        losses[name] = s3.report(ended.location)["steps"][0]["loss"]
    assert losses["absent"] == losses["none"] != losses["much"]
    if objective == "dpo":  # nothing was learned yet: a coin is tossed
        assert losses["absent"] == pytest.approx(math.log(2), rel=1e-5)
