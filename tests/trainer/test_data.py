"""Which records train and which measure."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_api.run import ExitCode
from finetune_api.spec import Data, Storage
from finetune_trainer.data import hold_out, load
from finetune_trainer.errors import TrainerError
from finetune_trainer.storage import Store
from tests import tiny


@settings(deadline=None)
@given(st.integers(2, 300), st.floats(0.01, 0.99), st.integers(0, 2**32 - 1))
def test_a_split_loses_nothing_doubles_nothing_and_keeps_the_order(count, fraction, seed):
    records = list(range(count))
    try:
        kept, held_out = hold_out(records, fraction, seed)
    except TrainerError:
        assert round(count * fraction) in (0, count)
        return
    assert sorted(kept + held_out) == records
    assert (kept, held_out) == (sorted(kept), sorted(held_out))
    assert abs(len(held_out) - count * fraction) <= 0.5
    assert hold_out(records, fraction, seed) == (kept, held_out)


def test_another_seed_draws_another_split():
    assert hold_out(range(100), 0.1, 1) != hold_out(range(100), 0.1, 2)


@pytest.mark.parametrize(("count", "fraction", "said"), [(1, 0.5, "leaves 1 to measure"), (9, 0.05, "leaves 0 to")])
def test_a_set_too_small_to_split_is_refused_with_its_numbers(count, fraction, said):
    with pytest.raises(TrainerError, match=said) as caught:
        hold_out(range(count), fraction, 0)
    assert caught.value.code is ExitCode.DATA_INVALID
    assert f"validationFraction {fraction:g} of {count} record(s)" in caught.value.message


def test_several_files_of_different_formats_are_one_set_in_their_order(s3, tmp_path):
    pairs = tiny.json_lines({"prompt": "a", "completion": "b"})
    train = [s3.put("data/several/a.jsonl", pairs), s3.put("data/several/b.txt", b"one\n\ntwo")]
    validation = s3.put("data/several/c.jsonl", tiny.json_lines({"text": "c"}))
    section = {"train": [{"uri": uri} for uri in train], "validation": [{"uri": validation, "format": "text"}]}
    found = load(Data.model_validate(section), 0, Store(Storage(endpoint_url=s3.url)), tmp_path)
    assert [record.text or record.prompt for record in found.train] == ["a", "one", "two"]
    assert [record.text for record in found.validation] == ["c"]
    assert [(file.uri, file.records) for file in found.files] == [(train[0], 1), (train[1], 2), (validation, 1)]
    assert found.files[0].sha256 == hashlib.sha256(pairs).hexdigest()
