"""The wheel, installed with exactly one extra: an environment that holds what that extra names and nothing else."""

import re
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from .dockerfiles import ROOT


@dataclass(frozen=True)
class Environment:
    python: Path
    distributions: frozenset[str]
    """Names of the distributions in it, our own left out."""

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.python), "-I", *arguments], capture_output=True, text=True, timeout=100, check=False
        )


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built as the Dockerfiles build it."""
    to = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(to)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (built,) = to.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Environment]:
    """extra → a clean environment with the wheel, and links to just the distributions that the extra asks for."""

    def make(extra: str) -> Environment:
        home = tmp_path_factory.mktemp(extra)
        venv.create(home, with_pip=False, symlinks=True)
        python = home / "bin/python"
        pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
        subprocess.run([*pip, "--no-index", "--no-deps", "--no-compile", str(wheel)], check=True)
        (packages,) = home.glob("lib/python*/site-packages")
        needed = closure(extra)
        for one in needed.values():
            link(one, packages)
        return Environment(python, frozenset(needed))

    return make


def closure(extra: str) -> dict[str, Distribution]:
    """The distributions that our wheel with an extra needs, as they are installed here, by normalised name."""
    seen: dict[str, set[str]] = {}
    todo = [Requirement(f"finetune-operator[{extra}]")]
    while todo:
        wanted = todo.pop()
        name = re.sub(r"[-_.]+", "-", wanted.name).lower()
        extras = {"", *wanted.extras}
        if extras <= seen.get(name, set()):
            continue
        seen.setdefault(name, set()).update(extras)
        todo += [
            inner
            for inner in map(Requirement, distribution(name).requires or ())
            if inner.marker is None or any(inner.marker.evaluate({"extra": one}) for one in extras)
        ]
    del seen["finetune-operator"]
    return {name: distribution(name) for name in seen}


def link(one: Distribution, packages: Path) -> None:
    """Links to a distribution's top-level packages and modules, and to its metadata."""
    for name in tops(one):
        target = Path(str(one.locate_file(name)))
        if not (packages / name).exists():
            (packages / name).symlink_to(target)


def tops(one: Distribution) -> Iterator[str]:
    """First components of a distribution's files, without what lies outside of site-packages."""
    found = {file.parts[0] for file in one.files or ()}
    yield from sorted(found - {"..", "__pycache__"})
