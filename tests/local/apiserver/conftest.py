from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.local.apiserver.apiclient import Running, running
from tests.local.apiserver.samples import sample_definition

# kubectl is no dependency: without it on the PATH its tests are not collected, and what it asked a real server, which
# test_oracle.py replays, stands for it.
collect_ignore = [] if shutil.which("kubectl") else ["test_kubectl.py"]

DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


@pytest.fixture
def logs_dir(tmp_path: Path) -> Path:
    return tmp_path / "logs"


@pytest.fixture
def api(logs_dir: Path) -> Iterator[Running]:
    """A server with nothing in it."""
    with running(logs_dir) as started:
        yield started


@pytest.fixture
def jobs_api(api: Running) -> Running:
    """A server that knows SampleJobs."""
    assert api.post(DEFINITIONS, sample_definition()).status == 201
    return api
