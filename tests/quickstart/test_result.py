"""What is kept of the result, and the proof that it stands alone."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from examples.quickstart import result, screen


def resource(baseline: float, value: float) -> dict[str, Any]:
    metrics = [{"name": "eval_loss", "value": value, "baseline": baseline}]
    return {"kind": "FineTuneJob", "metadata": {"name": "a", "managedFields": [{}]}, "status": {"metrics": metrics}}


def test_the_kept_resource_is_yaml_without_managed_fields(tmp_path: Path) -> None:
    result.keep_resource(resource(2.0, 1.0), tmp_path / "job.yaml")
    kept = yaml.safe_load((tmp_path / "job.yaml").read_text())
    assert kept["metadata"] == {"name": "a"}
    assert kept["status"]["metrics"][0]["value"] == 1.0


def test_the_local_adapter_names_the_local_base_and_stays_as_it_is_otherwise(tmp_path: Path) -> None:
    config = tmp_path / "adapter_config.json"
    config.write_text(json.dumps({"base_model_name_or_path": "s3://a/b/", "r": 16}))
    result.point_at_base(tmp_path, tmp_path / "base")
    assert json.loads(config.read_text()) == {"base_model_name_or_path": str(tmp_path.resolve() / "base"), "r": 16}


def test_a_lower_loss_is_a_gain() -> None:
    result.require_gain(resource(3.66, 3.28))


@pytest.mark.parametrize("value", [3.66, 4.0])
def test_a_tuned_model_that_is_no_better_than_its_base_fails_the_quickstart(value: float) -> None:
    with pytest.raises(result.ResultUnusable, match=r"3\.660"):
        result.require_gain(resource(3.66, value))


def script(tmp_path: Path, source: str) -> Path:
    file = tmp_path / "ask.py"
    file.write_text(source)
    return file


def test_the_answer_comes_from_a_process_that_is_given_adapter_and_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = "import os, sys\nprint(sys.argv[1:], os.environ['HF_HUB_OFFLINE'], __name__)"
    monkeypatch.setattr(result, "ASK", script(tmp_path, told))
    assert result.ask_alone(tmp_path, "What?") == f"['{tmp_path}', 'What?'] 1 __main__"


@pytest.mark.parametrize("package", result.OUR_PACKAGES)
def test_an_adapter_that_needs_our_packages_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setattr(result, "ASK", script(tmp_path, f"import {package}"))
    with pytest.raises(result.ResultUnusable, match=package):
        result.ask_alone(tmp_path, "What?")


def test_no_answer_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(result, "ASK", script(tmp_path, "print()"))
    with pytest.raises(result.ResultUnusable, match="exit code 0"):
        result.ask_alone(tmp_path, "What?")


def test_base_and_tuned_model_stand_beside_each_other() -> None:
    metrics = [
        {"name": "eval_loss", "value": 3.2834, "baseline": 3.6631},
        {"name": "perplexity", "value": 26.66, "baseline": 38.98},
    ]
    assert screen.comparison(metrics).splitlines() == [
        "                      BASE         TUNED",
        "eval_loss            3.663   →     3.283",
        "perplexity            39.0   →      26.7",
    ]


def test_each_sample_shows_question_both_answers_and_the_documentation() -> None:
    sample = {"prompt": "What does f() do?\n", "base": "", "tuned": "word\nword " * 12, "reference": "It works."}
    assert screen.answers([sample]).splitlines() == [
        "What does f() do?",
        "  base           (nothing)",
        f"  tuned          {'word ' * 16}".rstrip(),
        f"                 {'word ' * 8}".rstrip(),
        "  documentation  It works.",
    ]
