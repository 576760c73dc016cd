"""What the README and its neighbours say is true: YAML, commands, links, tree."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_api.conditions import Phase
from finetune_api.job import read_spec
from finetune_api.status import FineTuneJobStatus
from tests import tiny
from tests.api.test_agreement import refused_by_the_crd

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "examples" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands() -> list[list[str]]:
    """The commands of the README's console blocks, without comments and shown output."""
    lines = [line for block in blocks("console") if "$ " not in block for line in block.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


def documents() -> list[dict[str, Any]]:
    texts = [block for page in PAGES for block in blocks("yaml", page.read_text())]
    return [document for text in texts for document in yaml.safe_load_all(text) if isinstance(document, dict)]


def test_every_finetunejob_shown_is_taken_by_models_and_api_server() -> None:
    shown = [document for document in documents() if document.get("kind") == "FineTuneJob"]
    assert shown
    for job in shown:
        read_spec(job["spec"])
        assert not refused_by_the_crd(job["spec"])


def test_the_status_shown_is_one_that_the_operator_writes() -> None:
    [status] = [document["status"] for document in documents() if "status" in document and "kind" not in document]
    read = FineTuneJobStatus.model_validate(status)
    assert read.phase is Phase.SUCCEEDED
    assert read.to_dict() == status | {"conditions": [], "attempts": []}


def dry_run(target: str) -> str:
    """What make would do; told nothing by a make that runs these tests."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", "--dry-run", target]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("target", [command[1] for command in commands() if command[0] == "make"])
def test_make_knows_the_targets_that_the_readme_names(target: str) -> None:
    assert "-m " in dry_run(target)


def test_make_quickstart_runs_the_quickstart_that_the_tests_run() -> None:
    assert dry_run("quickstart").rstrip().endswith("-m examples.quickstart")


def test_the_command_for_data_of_ones_own_ends_with_an_adapter(tmp_path: Path) -> None:
    [command] = [command for command in commands() if "finetune_local" in command]
    shutil.copytree(ROOT / "examples" / "capitals", tmp_path / "examples" / "capitals")
    tiny.save_model(tmp_path / "examples" / "models" / "llama")
    assert command[0] == ".venv/bin/python"
    done = subprocess.run([sys.executable, *command[1:]], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / command[-1] / "adapter_model.safetensors").is_file()
    assert "Succeeded" in done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_that_exist(page: Path) -> None:
    prose = re.sub(r"`[^`]*`", "", page.read_text())
    links = re.findall(r"\]\((?!https?://)([^)#]+)", prose)
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_tree_in_the_readme_is_the_tree() -> None:
    [tree] = [block for block in blocks("text") if "trainer_image/ " in block]
    tops = {line.split()[0].split("/")[0] for line in tree.splitlines() if line and not line.startswith(" ")}
    assert all((ROOT / top).is_dir() for top in tops)
    [tests] = [line.split()[1:] for line in tree.splitlines() if line.startswith("tests/")]
    folders = {path.name for path in (ROOT / "tests").iterdir() if any(path.glob("**/test_*.py"))}
    assert set(tests) == folders
