"""Which examples there are, and what each of them says of itself."""

from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from finetune_api.status import Metric
from finetune_local.run import documents

HERE = Path(__file__).parent
README = HERE / "README.md"
_HEAD = """# Examples

FineTuneJobs that run on a laptop in seconds, on models so small that what they learn is a sketch of the real thing.

```console
python -m examples.models                                     # the small models, once
python -m finetune_local run examples/capitals/job.yaml --out build/capitals
make examples                                                 # all of them, one after the other
```

This page is written by `python -m examples.collection`.

| example | what it shows |
|---|---|
"""


@dataclass(frozen=True)
class Example:
    """A folder of YAML files with one FineTuneJob or several, which run in the order of files and documents, under the
    FineTuneProfiles beside them."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def files(self) -> list[Path]:
        """Its YAML files, in their order."""
        return sorted(self.folder.glob("*.yaml"))

    def jobs(self) -> list[tuple[Path, dict[str, Any]]]:
        """The FineTuneJobs as they were written, each with its file."""
        return [(file, document) for file in self.files for document in documents.read(file).jobs]

    def profiles(self) -> list[tuple[Path, dict[str, Any]]]:
        """The FineTuneProfiles, likewise."""
        return [(file, document) for file in self.files for document in documents.read(file).profiles]

    @property
    def summary(self) -> str:
        """The first sentence of the comment that its first file begins with."""
        lines = self.files[0].read_text(encoding="utf-8").splitlines()
        comment = takewhile(lambda line: line.startswith("#"), lines)
        return " ".join(line.lstrip("# ").rstrip() for line in comment).partition(". ")[0].rstrip(".")


def examples() -> list[Example]:
    """All of them, by name."""
    return [Example(folder) for folder in sorted({file.parent for file in HERE.glob("*/*.yaml")})]


def readme() -> str:
    """The page that lists them."""
    return _HEAD + "".join(f"| [{one.name}]({one.name}/) | {one.summary} |\n" for one in examples())


def improved(metric: Metric) -> bool:
    """Whether the tuned model is better than its base."""
    if metric.baseline is None:
        return False
    from finetune_trainer.recipes.language_modeling import LanguageModelingRecipe  # brings torch in

    better = metric.value - metric.baseline
    lower_is_better = metric.name.rpartition("/")[2] in LanguageModelingRecipe.lower_is_better
    return better < 0 if lower_is_better else better > 0


if __name__ == "__main__":
    README.write_text(readme(), encoding="utf-8")
