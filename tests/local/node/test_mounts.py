"""Paths of mounts, rewritten to a pod's directory."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_local.node.mounts import PodDirectory, mount_points, rewrite

POINTS = {"/data": Path("/p/data"), "/data/cache": Path("/p/cache"), "/dev/termination-log": Path("/p/log")}


@pytest.mark.parametrize(
    ("text", "rewritten"),
    [
        ("/data", "/p/data"),
        ("/data/", "/p/data/"),
        ("/data/train.jsonl", "/p/data/train.jsonl"),
        ("--in=/data/x", "--in=/p/data/x"),
        ("cat '/data/x' > /dev/termination-log", "cat '/p/data/x' > /p/log"),
        ("/data:/data/cache", "/p/data:/p/cache"),
        ("/data/cache/hub", "/p/cache/hub"),
        ("/data/cached", "/p/data/cached"),
        ("/database", "/database"),
        ("/data.json", "/data.json"),
        ("/data-2", "/data-2"),
        ("/mnt/data", "/mnt/data"),
        ("./data", "./data"),
        ("s3://data/x", "s3://data/x"),
        ("https://host/data", "https://host/data"),
        ("", ""),
    ],
)
def test_a_path_is_rewritten_where_it_stands_for_itself(text: str, rewritten: str) -> None:
    assert rewrite(text, POINTS) == rewritten


@given(st.text(alphabet="abc /._-:=", max_size=40))
def test_text_without_a_mount_point_stays_as_it_is(text: str) -> None:
    assert rewrite(text, POINTS) == text


@given(st.from_regex(r"/data(/[a-z]{1,5}){0,3}", fullmatch=True))
def test_a_path_below_a_mount_point_keeps_its_end(path: str) -> None:
    target = rewrite(path, POINTS)

    assert target.startswith("/p/")
    assert Path(target).parts[-1] == Path(path).parts[-1]


def test_mounts_and_the_termination_log_are_mount_points() -> None:
    container = {
        "name": "main",
        "volumeMounts": [{"name": "v", "mountPath": "/a/"}, {"name": "w", "mountPath": "/b", "subPath": "in"}],
        "terminationMessagePath": "/tmp/result",
    }

    assert mount_points(container, PodDirectory(Path("/pod"))) == {
        "/a": Path("/pod/volumes/v"),
        "/b": Path("/pod/volumes/w/in"),
        "/tmp/result": Path("/pod/containers/main/termination-log"),
    }
