"""Quicker imports: only while they last, and with the same outcome."""

import functools
import inspect
import subprocess
import sys
from importlib import import_module

import pytest

from finetune_trainer.quickimports import quick_imports


def test_everything_is_as_before_even_after_an_import_that_failed(monkeypatch):
    monkeypatch.delitem(sys.modules, "boto3", raising=False)
    before = functools.lru_cache, inspect.getframeinfo
    with pytest.raises(ImportError), quick_imports():
        import_module("boto3")
    assert (functools.lru_cache, inspect.getframeinfo) == before
    assert "boto3" not in sys.modules


def test_what_is_in_use_already_stays_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "boto3", there := object())
    with quick_imports():
        assert sys.modules["boto3"] is there
    assert sys.modules["boto3"] is there


@pytest.mark.parametrize(
    ("decorated", "bound"),
    [
        (lambda f: functools.lru_cache(f), None),
        (lambda f: functools.lru_cache()(f), None),
        (lambda f: functools.lru_cache(maxsize=3)(f), 3),
        (lambda f: functools.lru_cache(3, typed=True)(f), 3),
    ],
    ids=["bare", "called", "bounded", "bounded by position"],
)
def test_a_cache_has_the_bound_that_was_asked_for_and_else_none(decorated, bound):
    with quick_imports():
        doubled = decorated(lambda x: 2 * x)
    assert [doubled(x) for x in [*range(200), 0]] == [2 * x for x in [*range(200), 0]]
    assert doubled.cache_info().maxsize == bound
    assert doubled.cache_info().hits == (0 if bound else 1)


def test_a_frame_still_knows_where_it_is():
    frame = sys._getframe()
    expected = inspect.getframeinfo(frame)
    with quick_imports():
        found = inspect.getframeinfo(frame)
    assert (found.filename, found.function) == (expected.filename, expected.function)
    assert found.lineno == expected.lineno + 2


STORY = """
import sys
from finetune_trainer.quickimports import quick_imports
with quick_imports():
    import finetune_trainer.tuning.tuning
assert not [name for name in ("boto3", "scipy", "sklearn") if name in sys.modules], "imported at the start"
from sklearn.metrics import f1_score
assert f1_score([1], [1]) == 1
"""


def test_libraries_for_metrics_are_imported_when_metrics_are_computed_and_not_at_the_start():
    subprocess.run([sys.executable, "-c", STORY], check=True)
