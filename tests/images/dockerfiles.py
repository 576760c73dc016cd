"""Reading Dockerfiles: instructions in order, with the stage that each belongs to."""

import re
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parents[2]
OPERATOR, TRAINER = ROOT / "operator/Dockerfile", ROOT / "trainer_image/Dockerfile"


@dataclass(frozen=True)
class Instruction:
    stage: int
    """From 0; -1 before the first FROM."""
    name: str
    rest: str


def instructions(file: Path) -> list[Instruction]:
    """The instructions of a Dockerfile, continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", file.read_text(), flags=re.MULTILINE)
    found: list[Instruction] = []
    stage = -1
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        if line.strip():
            name, _, rest = line.partition(" ")
            stage += name == "FROM"
            found.append(Instruction(stage, name, rest.strip()))
    return found


def of(file: Path, name: str, stage: int | None = None) -> list[str]:
    """What follows an instruction, in a stage (negative: counted from the last) or in all."""
    all_of_them = instructions(file)
    if stage is not None and stage < 0:
        stage += all_of_them[-1].stage + 1
    return [i.rest for i in all_of_them if i.name == name and stage in (None, i.stage)]


def ignored(path: str) -> bool:
    """Whether .dockerignore keeps a path of the repository from the build."""
    out = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#"):
            pattern = line.removeprefix("!")
            parts = [path, *(str(parent) for parent in Path(path).parents)]
            if any(fnmatch(part, pattern) or fnmatch(part, pattern.removeprefix("**/")) for part in parts) or (
                pattern.startswith("**/") and any(fnmatch(p, pattern[3:]) for p in Path(path).parts)
            ):
                out = not line.startswith("!")
    return out
