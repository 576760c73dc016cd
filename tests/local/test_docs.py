"""The documentation of local mode says what the embedded API server does not do."""

from pathlib import Path

import pytest

from finetune_local.apiserver.limits import LIMITS

PAGE = Path(__file__).parents[2] / "docs" / "local-mode.md"


@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: limit[:30])
def test_every_limit_of_the_embedded_api_server_is_documented(limit: str) -> None:
    assert f"- {limit}\n" in PAGE.read_text()
