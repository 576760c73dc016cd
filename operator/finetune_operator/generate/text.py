"""How generated files are written: YAML without aliases, Markdown tables."""

from collections.abc import Iterable, Sequence
from typing import Any

COMMAND = "make generate"
NOTICE = f"Generated, do not edit: change the source and run `{COMMAND}`."


def to_yaml(data: Any) -> str:
    """Block-style YAML in the order given, without anchors, on every machine the same."""
    import yaml  # comes with the kubernetes package; nothing but the generator needs it

    class Dumper(yaml.SafeDumper):
        """The pure Python dumper: libyaml, where PyYAML has it, folds lines elsewhere."""

        def ignore_aliases(self, data: Any) -> bool:
            return True

    return yaml.dump(data, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=110)


def yaml_file(data: Any) -> str:
    """A YAML document under the notice that it is generated."""
    return f"# {NOTICE}\n{to_yaml(data)}"


def markdown_file(title: str, *parts: str) -> str:
    """A Markdown page: title, notice, then the parts, a blank line between them."""
    return "\n\n".join([f"# {title}", f"<!-- {NOTICE} -->", *(part.strip() for part in parts)]) + "\n"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table. Cells may hold any text: pipes are escaped, line ends become spaces."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
