"""Whole runs of full tuning that leave a part of the model as it is."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import encoders, tiny

LEARN = {"maxSteps": 20, "learningRate": 1e-2, "maxLength": 64}
BASES = {"llama": tiny.save_model, "bert": encoders.save, "t5": tiny.save_reader_and_writer}
CASES = {
    "llama": (
        {},
        {"embeddings": True, "layers": 1},
        ("model.embed_tokens.", "model.layers.0."),
    ),
    "bert": (
        {"task": "text-classification", "records": encoders.texts(60)},
        {"embeddings": True, "layers": 1, "modules": ["attention.output.dense"]},
        (
            *(f"bert.embeddings.{kind}_embeddings." for kind in ("word", "position", "token_type")),
            *("bert.encoder.layer.0.", "bert.encoder.layer.1.attention.output.dense."),
        ),
    ),
    "t5": (
        {"task": "text2text-generation", "evaluation": {"metrics": []}},
        {"embeddings": True, "layers": 1, "modules": ["DenseReluDense.wi"]},
        (
            *("shared.", "encoder.block.0.", "decoder.block.0."),
            *("encoder.block.1.layer.1.DenseReluDense.wi.", "decoder.block.1.layer.2.DenseReluDense.wi."),
        ),
    ),
}
"""Of each architecture: what is run, what of the model is frozen, and how the names of these tensors begin."""


@pytest.mark.parametrize(("kind", "precision"), [("llama", "fp32"), ("bert", "fp32"), ("t5", "bf16")])
def test_what_is_frozen_is_published_bit_for_bit_and_all_else_has_moved(s3, trainer, tmp_path, kind, precision):
    """Also of a base in bf16, which is trained in fp32 and rounded again."""
    run, freeze, frozen = CASES[kind]
    base = BASES[kind](tmp_path / "base")
    before = rounded(base / "model.safetensors", torch.bfloat16 if precision == "bf16" else torch.float32)
    ended = trainer.run(
        **{name: value for name, value in run.items() if name != "records"},
        model={"uri": s3.put_directory(f"models/{trainer.directory.name}", base)},
        method={"adapter": "none", "freeze": freeze},
        data=trainer.data(tiny.json_lines(*run.get("records", tiny.PAIRS))),
        training=LEARN | {"precision": precision},
    )
    assert ended.code == 0, ended.result.error
    tuned, untouched = ended.metric("eval_loss")
    assert tuned < untouched - 0.1
    after = load_file(s3.fetch(ended.location, tmp_path / "model") / "model.safetensors")
    body = {name for name in before if not name.startswith("cls.")}
    assert body == {name for name in after if not name.startswith(("classifier.", "bert.pooler."))}
    for name in body:
        assert torch.equal(before[name], after[name]) is name.startswith(frozen), name
    told = {f"freeze.{name}": value for name, value in freeze.items()}
    assert told.items() <= s3.report(ended.location)["hyperparameters"].items()
    card = s3.get(f"{ended.location}README.md").decode()
    for name, value in told.items():
        assert f"| {name} | {value} |" in card


def rounded(file, dtype):
    """The tensors of a file, which has them in ``dtype`` from here on."""
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(file).items()}
    save_file(tensors, file, {"format": "pt"})
    return tensors
