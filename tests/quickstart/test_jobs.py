"""The FineTuneJobs of the quickstart, and what may go wrong around them."""

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import pytest

from examples.quickstart import __main__ as story
from examples.quickstart import jobs
from examples.quickstart.prepare import write_records
from examples.quickstart.screen import Screen
from examples.quickstart.stdlib_docs import Corpus, Pair
from finetune_api.job import read_spec
from finetune_local.cluster import ControlPlaneFailed
from finetune_local.run import documents
from finetune_local.run.job import RunFailed
from tests.api.test_agreement import refused_by_the_crd

ENDPOINT = "http://127.0.0.1:9000"
PAIR = Pair("m.f(x)", "Return x.")


def localised(tmp_path: Path, name: str) -> dict[str, Any]:
    """A job of the quickstart as it reaches the API server, from a folder laid out like this project."""
    build = tmp_path / "build/quickstart"
    write_records(Corpus(("Prose.",), (PAIR,), (PAIR,)), build / "input")
    (build / "input/random-llama").mkdir()
    yaml = tmp_path / "examples/quickstart" / name
    yaml.parent.mkdir(parents=True)
    yaml.write_bytes((story.HERE / name).read_bytes())
    [document] = documents.read(yaml).jobs
    return documents.localise(document, yaml, ENDPOINT, {"cpu": "2"}).job


@pytest.mark.parametrize("name", ["base.yaml", "tuned.yaml"])
def test_models_and_api_server_take_the_yaml(tmp_path: Path, name: str) -> None:
    spec = localised(tmp_path, name)["spec"]
    read_spec(spec)
    assert not refused_by_the_crd(spec)


def test_the_second_job_starts_from_the_first_ones_model(tmp_path: Path) -> None:
    base = localised(tmp_path / "1", "base.yaml")
    tuned = localised(tmp_path / "2", "tuned.yaml")
    assert tuned["spec"]["model"]["uri"] == f"job://{base['metadata']['name']}"
    assert base["spec"]["method"]["adapter"] == "none"


def test_the_files_hold_one_record_a_line(tmp_path: Path) -> None:
    write_records(Corpus(("Prosä.\n\nMore.", "Last."), (PAIR,), (PAIR,)), tmp_path / "input")
    prose = (tmp_path / "input/prose.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in prose] == [{"text": "Prosä.\n\nMore."}, {"text": "Last."}]
    assert json.loads((tmp_path / "input/held-out.jsonl").read_bytes()) == PAIR.record()


def test_a_second_quickstart_at_the_same_time_is_refused_and_touches_nothing(tmp_path: Path) -> None:
    kept = tmp_path / "quickstart/finetunejob.yaml"
    kept.parent.mkdir()
    kept.touch()
    with story._alone(kept.parent), pytest.raises(story.AlreadyRunning, match="quickstart"):
        story.quickstart(story.HERE, kept.parent, Screen(io.StringIO()))
    assert kept.exists()


def test_a_failure_ends_with_its_reason_and_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise RunFailed("quickstart-base: Failed: Diverged: lower spec.training.learningRate")

    monkeypatch.setattr(story, "quickstart", fail)
    assert story.main() == 1
    assert "The quickstart failed: quickstart-base: Failed: Diverged" in capsys.readouterr().err


def test_the_end_of_local_mode_ends_the_job_that_waits_for_it() -> None:
    async def broken() -> None:
        raise ControlPlaneFailed("the operator ended with exit code 1")

    async def main() -> None:
        waiting: asyncio.Task[dict[str, Any]] = asyncio.create_task(asyncio.Event().wait())  # type: ignore[arg-type]
        with pytest.raises(ControlPlaneFailed, match="the operator ended"):
            await jobs.unless_it_fails(waiting, broken())
        await asyncio.wait([waiting])
        assert waiting.cancelled()

    asyncio.run(main())


def test_what_the_jobs_come_to_is_passed_on_while_local_mode_lives() -> None:
    async def main() -> dict[str, Any]:
        async def done() -> dict[str, Any]:
            return {"kind": "FineTuneJob"}

        return await jobs.unless_it_fails(asyncio.create_task(done()), asyncio.Event().wait())  # type: ignore[arg-type]

    assert asyncio.run(main()) == {"kind": "FineTuneJob"}
