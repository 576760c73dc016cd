"""Models whose files were changed at random: they load, or they are refused with a sentence, and soon."""

import json
import random
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune_api.run import ExitCode
from finetune_trainer.errors import TrainerError
from finetune_trainer.models.head import LANGUAGE_MODEL
from finetune_trainer.models.model import load_model, load_tokenizer, require_matching_vocabulary
from finetune_trainer.models.modelcheck import require_loadable
from finetune_trainer.models.modelfiles import ModelFiles
from finetune_trainer.preparation.encoder import Encoder
from finetune_trainer.preparation.record import Record
from tests import tiny

FILES = ("config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json", "model.safetensors")
VALUES = (None, True, False, 0, 1, -1, 2, 7, 1000, 10**9, 2**63, 1.5, float("nan"), "", "x", "<|im_end|>", [], {}, [1])
RECORDS = [Record(f"chats line {n}", messages=tuple(tiny.CHATS[n]["messages"])) for n in range(3)]
PATIENCE = 20.0
"""Seconds that one model may take on a busy machine; an ordinary one takes a tenth of one."""


def places(content: Any) -> list[tuple[Any, Any]]:
    """Every place in a JSON document that holds a value: (container, key)."""
    here = list(content) if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ()
    return [(content, key) for key in here] + [place for key in here for place in places(content[key])]


def change_json(content: Any, chance: random.Random) -> str:
    """Changes one or two values: to another one, to that of another place, or to none."""
    told = []
    for _ in range(chance.randint(1, 2)):
        container, key = chance.choice(places(content) or [({"": 0}, "")])
        kind = chance.choice(("other", "other", "remove", "copy"))
        value = chance.choice(VALUES)
        if kind == "copy":
            from_container, from_key = chance.choice(places(content) or [({"": 0}, "")])
            value = json.loads(json.dumps(from_container[from_key]))
        if kind == "remove":
            del container[key]
        else:
            container[key] = value
        told.append(f"{kind} {key!r} {value!r}"[:80])
    return "; ".join(told)


def change_document(path: Path, chance: random.Random) -> str:
    """Changes values of a JSON file, or of the header of a safetensors file."""
    held = path.read_bytes()
    if path.suffix == ".json":
        content = json.loads(held)
        told = change_json(content, chance)
        path.write_text(json.dumps(content))
        return told
    length = int.from_bytes(held[:8], "little")
    header = json.loads(held[8 : 8 + length])
    told = change_json(header, chance)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + held[8 + length :])
    return told


def change_bytes(path: Path, chance: random.Random) -> str:
    """Cuts a file off, or changes some of its bytes: mostly near the beginning, where a header is."""
    content = bytearray(path.read_bytes())
    if chance.random() < 0.2:
        cut = chance.randrange(len(content))
        path.write_bytes(content[:cut])
        return f"cut at {cut}"
    at = [min(int(chance.expovariate(1 / 400)), len(content) - 1) for _ in range(chance.randint(1, 4))]
    for position in at:
        content[position] = chance.choice((0, 0xFF, ord('"'), ord("{"), ord("9"), chance.randrange(256)))
    path.write_bytes(content)
    return f"bytes at {at}"


def outcome(directory: Path) -> TrainerError | None:
    """What becomes of a model on its way from its files to its first loss: nothing, or its refusal.

    Raises:
        BaseException: whatever was not foreseen.
    """
    files = ModelFiles(directory, "the-base")
    try:
        require_loadable(directory, directory, files.name)
        tokenizer = load_tokenizer(files)
        encoded = Encoder(tokenizer, 64).encode(RECORDS)
        model = load_model(files, LANGUAGE_MODEL, True, "fp32")
        require_matching_vocabulary(model, tokenizer, files.name)
        model(input_ids=torch.tensor([encoded[0].ids.tolist()]))
    except TrainerError as error:
        return error
    return None


def broken(model: Path, directory: Path, seed: int) -> str:
    """Makes a broken copy of ``model``; tells how it was broken."""
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(model, directory)
    chance = random.Random(seed)
    name = chance.choice(FILES)
    change = chance.choices((change_document, change_bytes), (4, 1))[0]
    return f"seed {seed}, {name}: {change(directory / name, chance)}"


@pytest.mark.parametrize("seeds", [range(150), pytest.param(range(1000, 2500), marks=pytest.mark.long)])
def test_a_model_that_was_changed_at_random_loads_or_is_refused_with_a_sentence(model_directory, tmp_path, seeds):
    refusals = []
    for seed in seeds:
        how = broken(model_directory, tmp_path / "copy", seed)
        begun = time.monotonic()
        try:
            refusals.append(outcome(tmp_path / "copy"))
        except BaseException as error:
            pytest.fail(f"{how}: {type(error).__name__}: {error}")
        assert time.monotonic() - begun < PATIENCE, how
    said = {refusal.message for refusal in refusals if refusal}
    assert {refusal.code for refusal in refusals if refusal} <= {ExitCode.MODEL_INVALID, ExitCode.CONFIGURATION_INVALID}
    assert all(message.endswith(".") and str(tmp_path) not in message for message in said)
    assert len(said) > 20
    assert None in refusals
