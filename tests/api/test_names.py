"""Names of children: deterministic, legal, and different for different jobs."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.names import child_name, job_prefix

DNS_LABEL = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
object_names = st.from_regex(r"\A[a-z0-9]([-a-z0-9.]{0,250}[a-z0-9])?\Z").filter(lambda n: ".." not in n)


@given(name=object_names, uid=st.uuids().map(str), attempt=st.integers(0, 999))
def test_a_pod_of_any_job_has_a_legal_hostname(name: str, uid: str, attempt: int) -> None:
    assert DNS_LABEL.fullmatch(f"{child_name(name, uid, attempt)}-0")


@given(name=object_names, one=st.uuids().map(str), other=st.uuids().map(str))
def test_two_jobs_of_one_name_have_different_children(name: str, one: str, other: str) -> None:
    assert (child_name(name, one, 0) == child_name(name, other, 0)) == (one == other)


def test_names_that_are_cut_to_the_same_words_differ_by_the_hash() -> None:
    assert child_name("a" * 100 + "-one", "uid-1", 0) != child_name("a" * 100 + "-two", "uid-2", 0)


def test_every_attempt_has_a_child_of_its_own() -> None:
    assert child_name("bot", "uid", 0) != child_name("bot", "uid", 1)


@pytest.mark.parametrize("uri", ["s3://team/adapters", "s3://team/adapters/"])
def test_a_job_writes_below_the_output_with_or_without_its_slash(uri: str) -> None:
    assert re.fullmatch(r"s3://team/adapters/bot/[0-9a-f]{8}/", job_prefix(uri, "bot", "uid"))
