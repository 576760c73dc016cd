"""Which records train and which measure."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_api.run import ExitCode
from finetune_api.spec import Data, Storage
from finetune_trainer.errors import TrainerError
from finetune_trainer.preparation.data import hold_out, load
from finetune_trainer.preparation.formats import FORMATS
from finetune_trainer.storage.store import Store
from tests import tiny

NUMBERED = {"a": [{"text": f"{n}"} for n in range(3)], "b": [{"text": f"{n}"} for n in range(3, 20)]}
"""Two files of records that say their number."""


@settings(deadline=None)
@given(st.integers(2, 300), st.floats(0.01, 0.99), st.integers(0, 2**32 - 1))
def test_a_split_holds_out_the_share_that_was_asked_for_and_the_seed_says_which(count, fraction, seed):
    try:
        held_out = hold_out(count, fraction, seed)
    except TrainerError:
        assert round(count * fraction) in (0, count)
        return
    assert len(held_out) == count
    assert held_out.count(0) + held_out.count(1) == count
    assert abs(held_out.count(1) - count * fraction) <= 0.5
    assert hold_out(count, fraction, seed) == held_out


def test_another_seed_draws_another_split():
    assert hold_out(100, 0.1, 1) != hold_out(100, 0.1, 2)


def test_every_record_has_the_same_chance_to_be_held_out():
    draws = [hold_out(10, 0.3, seed) for seed in range(2000)]
    for index in range(10):
        assert 0.25 < sum(held_out[index] for held_out in draws) / 2000 < 0.35


@pytest.mark.parametrize(("count", "fraction", "said"), [(1, 0.5, "leaves 1 to measure"), (9, 0.05, "leaves 0 to")])
def test_a_set_too_small_to_split_is_refused_with_its_numbers(count, fraction, said):
    with pytest.raises(TrainerError, match=said) as caught:
        hold_out(count, fraction, 0)
    assert caught.value.code is ExitCode.DATA_INVALID
    assert f"validationFraction {fraction:g} of {count} record(s)" in caught.value.message


def test_no_record_trains_and_measures_and_none_is_lost(s3, tmp_path):
    lines = [s3.put(f"data/split/{name}.jsonl", tiny.json_lines(*records)) for name, records in NUMBERED.items()]
    section = {"train": [{"uri": uri} for uri in lines], "validationFraction": 0.3}
    found = load(Data.model_validate(section), list(FORMATS), 7, Store(Storage(endpoint_url=s3.url)), tmp_path)
    train, held_out = ([int(record.text) for record in part] for part in (found.train, found.validation))
    assert (len(train), len(held_out)) == (len(found.train), len(found.validation)) == (14, 6)
    assert sorted(train + held_out) == list(range(20))
    assert (train, held_out) == (sorted(train), sorted(held_out))
    assert train == [int(record.text) for record in found.train]


def test_several_files_of_different_formats_are_one_set_in_their_order(s3, tmp_path):
    pairs = tiny.json_lines({"prompt": "a", "completion": "b"})
    train = [s3.put("data/several/a.jsonl", pairs), s3.put("data/several/b.txt", b"one\n\ntwo")]
    validation = s3.put("data/several/c.jsonl", tiny.json_lines({"text": "c"}))
    section = {"train": [{"uri": uri} for uri in train], "validation": [{"uri": validation, "format": "text"}]}
    found = load(Data.model_validate(section), list(FORMATS), 0, Store(Storage(endpoint_url=s3.url)), tmp_path)
    assert [record.text or record.prompt for record in found.train] == ["a", "one", "two"]
    assert [record.text for record in found.validation] == ["c"]
    assert [(file.uri, file.records) for file in found.files] == [(train[0], 1), (train[1], 2), (validation, 1)]
    assert found.files[0].sha256 == hashlib.sha256(pairs).hexdigest()
