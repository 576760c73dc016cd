"""``python -m examples``: every example through local mode, one after the other, and a table of what came of them."""

import argparse
import asyncio
import json
import logging
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from examples import models
from examples.collection import Example, examples
from examples.quickstart.__main__ import BUILD as QUICKSTART
from examples.quickstart.jobs import unless_it_fails
from examples.quickstart.new_model import create_base
from examples.quickstart.prepare import write_records
from examples.quickstart.stdlib_docs import read_standard_library
from finetune_api.conditions import Phase
from finetune_local.client import ApiClient
from finetune_local.cluster import ControlPlaneFailed, LocalCluster
from finetune_local.connection import Addresses
from finetune_local.run import documents, job
from finetune_local.run.progress import Display

RESULTS = Path("build/examples.json")

Row = dict[str, Any]
"""``example``, ``phase``, ``metrics``, ``seconds``."""


async def run_all(chosen: Sequence[Example]) -> list[Row]:
    """Each job to its end, in one control plane; a job that is refused or fails is a row like any other."""
    with tempfile.TemporaryDirectory(prefix="finetune-examples-") as folder:
        async with LocalCluster(Path(folder)) as cluster:
            return await unless_it_fails(asyncio.create_task(_rows(chosen, cluster)), cluster.watch())


async def _rows(chosen: Sequence[Example], cluster: LocalCluster) -> list[Row]:
    rows, addresses = [], Addresses.of(cluster)
    async with addresses.client() as client:
        for example in chosen:
            for file, profile in example.profiles():
                await job.apply_profile(profile, file, client)
            jobs = example.jobs()
            for file, document in jobs:
                name = example.name if len(jobs) == 1 else f"{example.name}/{document['metadata']['name']}"
                rows.append({"example": name} | await _row(document, file, client, addresses))
    return rows


async def _row(document: Row, file: Path, client: ApiClient, addresses: Addresses) -> Row:
    display, began = Display(sys.stderr), time.monotonic()
    phase, metrics = str(Phase.FAILED), []
    try:
        done = await job.run(document, file, client, addresses, display)
        phase, metrics = done["status"]["phase"], done["status"].get("metrics", [])
        if not job.succeeded(done):
            display.say(f"{await job.last_words(done, client)}{job.explanation(done)}")
    except (documents.InvalidDocument, job.RunFailed) as error:
        display.say(str(error))
    display.clear()
    return {"phase": phase, "metrics": metrics, "seconds": round(time.monotonic() - began, 1)}


def table(rows: Sequence[Row]) -> str:
    """The rows with the first metric of each."""
    cells = [("EXAMPLE", "PHASE", "METRIC", "BASE→TUNED", "SECONDS")]
    for row in rows:
        first = next(iter(row["metrics"]), {})
        base = f"{first['baseline']:.3f}→" if "baseline" in first else ""
        values = f"{base}{first['value']:.3f}" if first else ""
        cells.append((row["example"], row["phase"], first.get("name", ""), values, f"{row['seconds']:.1f}"))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("   ".join(map(str.ljust, line, widths)).rstrip() for line in cells)


def main() -> int:
    """The process; the answer is its exit code."""
    parser = argparse.ArgumentParser(prog="python -m examples", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="example", help="folders of examples/; all, if none is named")
    names = parser.parse_args().names
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    chosen = [example for example in examples() if not names or example.name in names]
    if unknown := set(names) - {example.name for example in chosen}:
        parser.error(
            f"there is no example {', '.join(sorted(unknown))}; there are: {', '.join(map(_name, examples()))}"
        )
    models.prepare()
    if any(example.name == QUICKSTART.name for example in chosen):
        _make_quickstart_input(QUICKSTART / "input")
    try:
        rows = asyncio.run(run_all(chosen))
    except ControlPlaneFailed as error:
        print(error, file=sys.stderr)
        return 1
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(f"{json.dumps(rows, indent=2)}\n", encoding="utf-8")
    print(f"{table(rows)}\n\nwritten to {RESULTS}")
    return 0 if all(row["phase"] == Phase.SUCCEEDED for row in rows) else 1


def _make_quickstart_input(folder: Path) -> None:
    if not folder.exists():
        corpus = read_standard_library()
        write_records(corpus, folder)
        create_base(corpus.prose, folder / "random-llama")


def _name(example: Example) -> str:
    return example.name


if __name__ == "__main__":
    sys.exit(main())
