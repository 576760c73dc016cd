from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.local.apiserver.apiclient import Running, running
from tests.local.apiserver.samples import sample_definition

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
