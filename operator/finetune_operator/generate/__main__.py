"""``python -m finetune_operator.generate [--check]``, from the root of the repository."""

import argparse
import sys
from pathlib import Path

from finetune_operator.generate import files
from finetune_operator.generate.text import COMMAND


def main(arguments: list[str] | None = None) -> int:
    """The exit code: 1 where ``--check`` found a file that differs from its source."""
    parser = argparse.ArgumentParser(prog="python -m finetune_operator.generate", description=files.__doc__)
    parser.add_argument("--check", action="store_true", help="compare only; exit 1 if a file differs from its source")
    parser.add_argument("--root", type=Path, default=Path(), help="root of the repository (default: here)")
    options = parser.parse_args(arguments)
    if not options.check:
        for path in files.write(options.root):
            print(f"wrote {path}")
        return 0
    stale = files.drifted(options.root)
    for path in stale:
        print(f"{path} differs from its source: run `{COMMAND}` and commit the result", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
