"""A training in files: nothing of it is lost on the way, to the last bit."""

import json
import logging
import re
from pathlib import Path

import pytest
import torch

from finetune_trainer.checkpoints.savedtraining import SavedTraining
from finetune_trainer.evaluation.evaluate import Measured
from finetune_trainer.progress import StepDone
from finetune_trainer.publishing.versions import made_with
from finetune_trainer.training.history import History
from finetune_trainer.training.memory import Fit
from finetune_trainer.training.snapshot import Snapshot, TrainingState
from finetune_trainer.tuning.measuring import Measurement

BASE = Measurement(Measured({"eval_loss": 0.1 + 0.2, "token_accuracy": 1 / 3}), ["Grüße", ""])


def snapshot(**tensors) -> Snapshot:
    state = TrainingState(Fit(512, recompute=True), rate_factor=0.5, rewinds=1, resumed_at=[3])
    for step in range(1, 6):
        state.watch.fault(1 / step, 1.0)
        state.advance(StepDone(step, 9, step / 3, 1 / step, 1e-3 / step, 100))
    weights = tensors or {
        "a.weight": torch.randn(3, 4),
        "a.bias": torch.randn(4).bfloat16(),
        "wide": torch.randn(4, 3).T,
    }
    moments = {
        "a.weight/step": torch.tensor(5.0),
        "a.weight/exp_avg": torch.randn(3, 4) * 1e-30,
        "a.weight/state1": torch.full((3, 4), 200, dtype=torch.uint8),
    }
    copies = {} if tensors else {"average": {"a.weight": torch.randn(3, 4)}, "best": {"a.weight": torch.randn(3, 4)}}
    state.standing.early.add(0.1 + 0.2, 4, lower=True)
    state.history.measured(4, {"eval_loss": 0.1 + 0.2})
    random = {"cpu": torch.get_rng_state()}, {"cpu": torch.get_rng_state()}
    return Snapshot(state.to_dict() | {"numbers": {"a.weight/t": 5}}, weights, moments, random, copies)


@pytest.mark.parametrize("base", [BASE, None])
def test_what_is_read_is_what_was_written_to_the_bit(tmp_path, base):
    written = snapshot()
    SavedTraining(written, base).write(tmp_path / "saved")
    saved = SavedTraining.read(tmp_path / "saved")
    assert saved.base == base
    assert saved.snapshot.state == json.loads(json.dumps(written.state))
    assert TrainingState.of_dict(saved.snapshot.state).to_dict() | {"numbers": {"a.weight/t": 5}} == written.state
    assert History.of_dict(saved.snapshot.state["history"]).last.loss == 1 / 5
    assert saved.snapshot.copies.keys() == written.copies.keys()
    sets = [(getattr(saved.snapshot, name), getattr(written, name)) for name in ("weights", "optimizer")]
    for there, here in sets + [(saved.snapshot.copies[name], written.copies[name]) for name in written.copies]:
        assert there.keys() == here.keys()
        assert all(torch.equal(there[key], here[key]) and there[key].dtype == here[key].dtype for key in here)
    assert [torch.equal(a["cpu"], b["cpu"]) for a, b in zip(saved.snapshot.random, written.random, strict=True)]


def test_it_is_safetensors_and_json_and_nothing_else(tmp_path):
    SavedTraining(snapshot(), BASE).write(tmp_path / "saved")
    assert sorted(path.name for path in (tmp_path / "saved").iterdir()) == [
        "copy-average.safetensors",
        "copy-best.safetensors",
        "optimizer.safetensors",
        "random-0.safetensors",
        "random-1.safetensors",
        "state.json",
        "weights.safetensors",
    ]
    assert json.loads((tmp_path / "saved" / "state.json").read_bytes())["madeWith"]["torch"] == torch.__version__


def test_a_training_that_is_over_has_no_moments_to_keep(tmp_path):
    before = snapshot()
    SavedTraining(Snapshot(before.state, before.weights, {}, before.random), None).write(tmp_path / "saved")
    assert SavedTraining.read(tmp_path / "saved").snapshot.optimizer == {}


def test_what_is_other_here_is_told_since_the_last_bits_may_be(tmp_path, caplog):
    there = made_with() | {"threads": "64", "torch": "2.1"}
    SavedTraining(snapshot(), BASE, there).write(tmp_path / "saved")
    with caplog.at_level(logging.INFO, "finetune_trainer"):
        SavedTraining.read(tmp_path / "saved").tell("s3://there/", 9)
    resumed, threads, version = [record.getMessage() for record in caplog.records]
    assert resumed == "resumed at step 5 of 9 from s3://there/"
    assert threads.startswith(f"threads is {torch.get_num_threads()}, and was 64 before")
    assert version.startswith(f"torch is {torch.__version__}")


def test_neither_writing_nor_reading_takes(tmp_path):
    large = torch.ones(16 << 20)
    before = anonymous_memory()
    SavedTraining(snapshot(large=large), None).write(tmp_path / "saved")
    saved = SavedTraining.read(tmp_path / "saved")
    assert saved.snapshot.weights["large"].sum() == large.numel()
    assert anonymous_memory() - before < 16 << 10  # the tensor has 64 MiB


def anonymous_memory() -> int:
    """Of this process, in KiB."""
    found = re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found
    return int(found[1])
