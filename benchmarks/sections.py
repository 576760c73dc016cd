"""A benchmark is sections, each of which measures rows; this runs them from a command line."""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path

from benchmarks.row import NotHere, Row, table

Section = Callable[[], list[Row]]


def run(sections: Mapping[str, Section], chosen: Sequence[str], written: Path) -> int:
    """Runs the ``chosen`` sections, or all, and prints their rows as they come; the answer is 1 if a goal is missed.

    A section that cannot run on this machine is named as not measured; it counts as missed only if it was chosen.
    """
    rows: list[Row] = []
    refused = []
    for name in chosen or sections:
        print(f"\n{name}", flush=True)
        try:
            measured = sections[name]()
        except NotHere as missing:
            print(f"    not measured: {missing}", flush=True)
            refused.append(name)
        else:
            rows += measured
            print(table(measured), flush=True)
    written.parent.mkdir(parents=True, exist_ok=True)
    written.write_text(json.dumps([row.to_json() for row in rows], ensure_ascii=False, indent=1) + "\n")
    missed = [row.name for row in rows if not row.holds]
    print(f"\n{len(rows)} rows in {written}; goals missed: {', '.join(missed) or 'none'}")
    return int(bool(missed or (chosen and refused)))


def main(package: str, sections: Mapping[str, str], about: str) -> int:
    """Runs what the command line names.

    Args:
        package: ``benchmarks.<what>``; ``<package>.<section>.rows()`` measures a section.
        sections: name → what it measures.
        about: a sentence for ``--help``.
    """
    written = Path("build/bench") / f"{package.rpartition('.')[2]}.json"
    parser = argparse.ArgumentParser(prog=f"python -m {package}", description=about)
    parser.add_argument("sections", nargs="*", metavar="section", help="to run only these")
    parser.add_argument("--list", action="store_true", help="list the sections and end")
    parser.add_argument("--written", type=Path, default=written, help="the JSON file (default: %(default)s)")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(f"{name:12} {what}" for name, what in sections.items()))
        return 0
    if unknown := set(arguments.sections) - set(sections):
        parser.error(f"no section {', '.join(sorted(unknown))}; there are {', '.join(sections)}")
    return run({name: partial(_section, package, name) for name in sections}, arguments.sections, arguments.written)


def _section(package: str, name: str) -> list[Row]:
    measured: list[Row] = import_module(f"{package}.{name}").rows()
    return measured
