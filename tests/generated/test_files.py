"""Generated files agree with their sources, and the generator says so when they do not."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from finetune_api import crd
from finetune_operator.generate import files, text
from finetune_operator.generate.__main__ import main

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("path", files.FILES)
def test_a_generated_file_agrees_with_its_source(path: str):
    assert (ROOT / path).read_text() == files.FILES[path](), f"{path} has drifted: run `make generate`"


def test_writing_makes_every_file_and_a_second_time_changes_nothing(tmp_path: Path):
    assert files.write(tmp_path) == list(files.FILES)
    assert files.write(tmp_path) == []


def test_check_names_each_drifted_or_missing_file_and_the_mend(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    files.write(tmp_path)
    first, last = "crds/finetunejobs.yaml", list(files.FILES)[-1]
    (tmp_path / first).write_text("edited by hand")
    (tmp_path / last).unlink()
    assert main(["--check", "--root", str(tmp_path)]) == 1
    said = capsys.readouterr().err.splitlines()
    assert [line.split()[0] for line in said] == [first, last]
    assert all("make generate" in line for line in said)
    assert (tmp_path / first).read_text() == "edited by hand", "--check writes nothing"


def test_the_command_checks_the_repository_it_stands_in():
    run = subprocess.run(
        [sys.executable, "-m", "finetune_operator.generate", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert (run.returncode, run.stderr) == (0, "")


def test_the_crd_file_is_the_contract_and_holds_no_yaml_alias():
    written = (ROOT / "crds/finetunejobs.yaml").read_text()
    assert yaml.safe_load(written) == crd.definition()
    assert written.startswith("# Generated, do not edit")
    assert not [token for token in yaml.scan(written) if isinstance(token, yaml.AliasToken | yaml.AnchorToken)]


def test_a_table_keeps_cells_with_pipes_and_line_ends_in_one_row():
    made = text.table(["a", "b"], [["x|y", "one\n  two"]])
    assert made.splitlines()[2] == "| x\\|y | one two |"
