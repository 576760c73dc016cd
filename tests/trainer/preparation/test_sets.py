"""Several sets of examples: their names, and that they read as one."""

import pytest

from finetune_api.run import ExitCode
from finetune_api.spec import DataSource
from finetune_trainer.errors import TrainerError
from finetune_trainer.preparation.encoding import Encoded, Example
from finetune_trainer.preparation.setnames import set_names
from finetune_trainer.preparation.sets import Part, Sets


@pytest.mark.parametrize(
    ("uris", "names"),
    [
        (["s3://b/math.jsonl"], ["math"]),
        (["s3://b/x/math.jsonl", "s3://b/x/code.jsonl.txt"], ["math", "code.jsonl"]),
        (["s3://b/math/train.jsonl", "s3://b/code/train.jsonl"], ["math-train", "code-train"]),
        (["s3://b/1/a/train.jsonl", "s3://b/2/a/train.jsonl", "s3://b/c.txt"], ["1-a-train", "2-a-train", "c"]),
        (["s3://b/train.jsonl", "s3://b/train.txt"], ["train-1", "train-2"]),
        (["s3://b/x.jsonl", "s3://b/x.jsonl"], ["x", "x"]),
        ([f"s3://b/{'a' * 40}-1.jsonl", f"s3://b/{'a' * 40}-2.jsonl"], [f"{'a' * 30}-1", f"{'a' * 30}-2"]),
        (["s3://b/Müller & Co.jsonl", "s3://b/__.jsonl"], ["M-ller-Co", "set"]),
    ],
)
def test_a_set_is_called_like_its_file_with_as_many_folders_as_tell_it_from_the_others(uris, names):
    assert set_names([DataSource(uri=uri) for uri in uris]) == names
    for name in names:
        assert DataSource(uri="s3://b/x", name=name).name == name  # what is derived could have been given


def test_the_users_name_counts_and_several_files_may_have_it():
    sources = [DataSource(uri=f"s3://b/{n}.jsonl", name="math" if n < 2 else None) for n in range(3)]
    assert set_names(sources) == ["math", "math", "2"]


def examples(*lengths: int) -> Encoded:
    from array import array

    return Encoded(Example(array("i", [length] * length), b"\0" + b"\1" * (length - 1)) for length in lengths)


def test_the_parts_read_as_one_row_of_examples():
    sets = Sets([Part("a", examples(2, 3)), Part("b", examples()), Part("c", examples(4)), Part("a", examples(5))])
    assert [len(sets[index].ids) for index in range(len(sets))] == [2, 3, 4, 5] == list(sets.lengths)
    assert (list(sets.units), sets.tokens) == ([1, 2, 3, 4], 14)
    assert sets.by_name == {"a": [0, 1, 3], "c": [2]}
    assert sets.first(2) == {"a": [0, 1], "c": [2]}
    with pytest.raises(IndexError):
        sets[4]


def test_a_file_of_which_nothing_is_learned_is_named():
    empty = examples()
    empty.dropped = 7
    sets = Sets([Part("a", examples(2)), Part("b", empty, source="s3://b/b.jsonl")])
    sets.require_learned("validation", False, 64)
    with pytest.raises(TrainerError, match=r"None of the 7 training records of s3://b/b.jsonl has anything") as caught:
        sets.require_learned("training", True, 64)
    assert caught.value.code is ExitCode.DATA_INVALID
    with pytest.raises(TrainerError, match="None of the 7 validation records has anything"):
        Sets([Part("b", empty)]).require_learned("validation", False, 64)
