"""The wheel with exactly one extra is all that an image needs, and brings nothing of the other image."""

import json
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Environment
from .dockerfiles import ROOT

Installed = Callable[[str], Environment]

IMPORT_ALL = """
import importlib, json, pkgutil, sys, tempfile, os
written = []
def look(event, arguments):
    if event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        written.append(str(arguments[0]))
sys.dont_write_bytecode = True
sys.addaudithook(look)
found = []
for root in sys.argv[1:]:
    package = importlib.import_module(root)
    for module in pkgutil.walk_packages(package.__path__, root + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
            found.append(module.name)
print(json.dumps({"modules": found, "written": [w for w in written if not w.startswith(tempfile.gettempdir())
      and w != os.devnull], "loaded": sorted({name.partition(".")[0] for name in sys.modules})}))
"""


@pytest.fixture(scope="session")
def operator(installed: Installed) -> Environment:
    return installed("operator")


@pytest.fixture(scope="session")
def trainer(installed: Installed) -> Environment:
    return installed("trainer")


def test_the_wheel_holds_all_packages_with_the_licence_and_no_tests(wheel: Path):
    files = zipfile.ZipFile(wheel).namelist()
    for package in ("finetune_api", "finetune_operator", "finetune_local", "finetune_trainer"):
        assert f"{package}/__init__.py" in files
    assert any(file.endswith("licenses/LICENSE") for file in files)
    assert not [file for file in files if file.startswith(("tests", "operator/", "trainer_image/"))]


def test_each_extra_leaves_out_what_the_other_image_is_made_of(operator: Environment, trainer: Environment):
    assert {"kubernetes", "aiohttp"} <= operator.distributions
    assert {"torch", "transformers", "peft", "accelerate", "botocore"} <= trainer.distributions
    assert not {"torch", "transformers", "numpy", "botocore", "moto", "pytest"} & operator.distributions
    assert not {"kubernetes", "aiohttp", "boto3", "moto", "pytest"} & trainer.distributions


@pytest.mark.parametrize(("extra", "absent"), [("operator", "torch"), ("trainer", "kubernetes")])
def test_the_environment_really_lacks_the_other_image_s_library(
    request: pytest.FixtureRequest, extra: str, absent: str
):
    environment: Environment = request.getfixturevalue(extra)
    run = environment.run("-c", f"import {absent}")
    assert run.returncode == 1
    assert "ModuleNotFoundError" in run.stderr


@pytest.mark.parametrize("extra", ["operator", "trainer"])
def test_every_module_of_an_image_imports_with_its_extra_alone_and_writes_nothing(
    request: pytest.FixtureRequest, extra: str
):
    environment: Environment = request.getfixturevalue(extra)
    run = environment.run("-c", IMPORT_ALL, "finetune_api", f"finetune_{extra}")
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    assert f"finetune_{extra}.settings" in found["modules"] or f"finetune_{extra}.config" in found["modules"]
    assert found["written"] == []


@pytest.mark.parametrize("extra", ["operator", "trainer"])
def test_the_image_s_command_explains_itself(request: pytest.FixtureRequest, extra: str):
    environment: Environment = request.getfixturevalue(extra)
    run = environment.run("-m", f"finetune_{extra}", "--help")
    assert (run.returncode, run.stderr) == (0, "")
    assert f"finetune_{extra}" in run.stdout


def test_the_operator_says_its_version(operator: Environment):
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    run = operator.run("-m", "finetune_operator", "--version")
    assert (run.returncode, run.stderr) == (0, "")
    assert version in run.stdout
