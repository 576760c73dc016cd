"""What is published, loaded by the code of its model card alone."""

from pathlib import Path
from typing import Any


def load_by_card(
    s3: Any, location: str, base: Path, directory: Path, monkeypatch: Any, name: str = "the-base", **adapters: str
) -> tuple[Any, Any]:
    """Model, in evaluation mode, and tokenizer.

    Args:
        base: what the card calls ``name``.
        adapters: where those of other jobs are that the card has put into the base, by their names there.
    """
    here = s3.fetch(location, directory / "this-directory")
    (directory / name).parent.mkdir(parents=True, exist_ok=True)
    (directory / name).symlink_to(base)
    for number, uri in adapters.items():
        s3.fetch(uri, directory / number.replace("_", "-"))
    card = (here / "README.md").read_text()
    monkeypatch.chdir(directory)
    loaded: dict[str, Any] = {}
    exec(card.partition("```python\n")[2].partition("```")[0], loaded)
    return loaded["model"].eval(), loaded["tokenizer"]
