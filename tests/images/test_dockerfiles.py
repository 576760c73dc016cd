"""The Dockerfiles keep the rules that a build cannot be run here to show."""

import json
import re
import tomllib
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from finetune_operator.settings import Settings

from .dockerfiles import OPERATOR, ROOT, TRAINER, ignored, of

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = [pytest.param(OPERATOR, "operator", id="operator"), pytest.param(TRAINER, "trainer", id="trainer")]
BOTH = pytest.mark.parametrize("file", [OPERATOR, TRAINER], ids=["operator", "trainer"])


@BOTH
def test_every_stage_starts_from_the_one_base_pinned_by_an_exact_tag(file: Path):
    base = re.fullmatch(r"PYTHON_IMAGE=python:(\d+\.\d+\.\d+)-slim-\w+", of(file, "ARG")[0])
    assert base
    assert base[1] in SpecifierSet(PROJECT["requires-python"])
    assert {line.split(" AS ")[0] for line in of(file, "FROM")} == {"${PYTHON_IMAGE}"}
    assert len(of(file, "FROM")) > 1


def test_both_images_share_their_base():
    assert of(OPERATOR, "ARG")[0] == of(TRAINER, "ARG")[0]


@BOTH
def test_no_host_is_named(file: Path):
    assert "://" not in file.read_text()


@pytest.mark.parametrize(("file", "extra"), EXTRAS)
def test_the_wheel_is_installed_with_exactly_its_extra_by_the_tested_versions(file: Path, extra: str):
    installs = [command for run in of(file, "RUN") for command in run.split("&&") if "pip" in command]
    assert all("--constraint" in command for command in installs if " install " in command)
    assert re.findall(r"\.whl\)\[([\w,]+)\]", " ".join(installs)) == [extra]


@pytest.mark.parametrize(("file", "extra"), EXTRAS)
def test_the_container_starts_the_module_as_a_numeric_user_that_is_not_root(file: Path, extra: str):
    assert json.loads(of(file, "ENTRYPOINT", -1)[0]) == ["python", "-m", f"finetune_{extra}"]
    user, group = of(file, "USER", -1)[-1].split(":")
    assert user == group == str(Settings().run_as_user)


@BOTH
def test_library_and_standard_library_are_compiled_so_that_a_read_only_root_starts_fast(file: Path):
    commands = " ".join(of(file, "RUN"))
    for where in ("/opt/finetune/lib", "/usr/local/lib"):
        assert re.search(rf"compileall [^&]*--invalidation-mode unchecked-hash [^&]*{where}", commands)
    assert "PYTHONDONTWRITEBYTECODE=1" in of(file, "ENV", -1)[0]


@BOTH
def test_the_image_is_labelled_with_the_project_s_version_and_licence(file: Path):
    labels = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]*)"', of(file, "LABEL", -1)[0]))
    assert labels["licenses"] == PROJECT["license"]
    assert labels["version"] == "${VERSION}"
    assert f"VERSION={PROJECT['version']}" in of(file, "ARG", -1)
    assert {"title", "description", "revision"} <= labels.keys()


@BOTH
def test_the_last_stage_takes_over_nothing_but_the_installed_environment(file: Path):
    assert of(file, "COPY", -1) == ["--from=install /opt/finetune /opt/finetune"]
    assert not of(file, "ADD")


@BOTH
def test_what_is_copied_exists_and_is_not_kept_from_the_build(file: Path):
    sources = [path for line in of(file, "COPY") if "--from" not in line for path in line.split()[:-1]]
    assert sources
    for path in sources:
        assert (ROOT / path).exists()
        assert not ignored(path)


@pytest.mark.parametrize(
    ("path", "out"),
    [
        ("operator/finetune_api/spec/model.py", False),
        ("pyproject.toml", False),
        (".git/config", True),
        (".venv/bin/python", True),
        ("tests/conftest.py", True),
        ("operator/finetune_api/__pycache__/run.pyc", True),
        ("trainer_image/.mypy_cache/x", True),
    ],
)
def test_the_build_sees_sources_alone(path: str, out: bool):
    assert ignored(path) is out


def test_torch_comes_from_a_chosen_index_and_everything_else_from_the_usual_one():
    installs = [command for run in of(TRAINER, "RUN") for command in run.split("&&") if " install " in command]
    with_index = [command for command in installs if "--index-url" in command]
    assert len(with_index) == 1
    assert with_index[0].split()[-1] == "torch"
    assert "--no-deps" in with_index[0]
    assert "TORCH_INDEX_URL=" in of(TRAINER, "ARG"), "empty unless it is given"
