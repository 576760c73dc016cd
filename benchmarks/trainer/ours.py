"""Our trainer as a contender: the real program, a run file, and an S3 server for model, data and result.

    python -m benchmarks.trainer.ours --run <run file>

runs the trainer with a meter around its loop, and nothing else changed; with ``--model <directory>`` it takes the model
from there, which saves sending the 16 GB of a large one through a test server.
"""

import argparse
import contextlib
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.trainer.process import measured, tell
from benchmarks.trainer.workload import Workload

BUCKET = "bench"


@dataclass(frozen=True)
class Server:
    """moto's S3 server on loopback, with one bucket."""

    url: str
    client: Any

    def put_directory(self, prefix: str, directory: Path) -> None:
        """Uploads the files of ``directory``."""
        for path in directory.iterdir():
            self.client.upload_file(str(path), BUCKET, f"{prefix}{path.name}")

    def get_directory(self, prefix: str, directory: Path) -> Path:
        """Downloads what lies below ``prefix``, without its folders."""
        directory.mkdir(parents=True, exist_ok=True)
        for entry in self.client.list_objects_v2(Bucket=BUCKET, Prefix=prefix)["Contents"]:
            self.client.download_file(BUCKET, entry["Key"], str(directory / Path(entry["Key"]).name))
        return directory


@contextlib.contextmanager
def s3() -> Iterator[Server]:
    """A server with the bucket, and credentials in the environment for whoever is started from here."""
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    os.environ |= {"AWS_ACCESS_KEY_ID": "benchmark", "AWS_SECRET_ACCESS_KEY": "benchmark"}
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    try:
        client = boto3.client("s3", endpoint_url=url, region_name="us-east-1")
        client.create_bucket(Bucket=BUCKET)
        yield Server(url, client)
    finally:
        server.stop()


def put(server: Server, workload: Workload, model: bool = True) -> None:
    """Uploads model and data, or the data alone."""
    if model:
        server.put_directory("model/", workload.model)
    for path in (workload.train, workload.held_out):
        server.client.upload_file(str(path), BUCKET, path.name)


def run_file(
    server: Server, workload: Workload, name: str, training: dict[str, Any], method: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The run file of a run called ``name``: everything at its default but what the peers are told too.

    ``training`` and ``method`` add to the sections of these names. With ``method`` the base is not measured, so that
    nothing comes between what is counted.
    """
    setting = workload.setting
    return {
        "contract": 1,
        "job": {"namespace": BUCKET, "name": "speed", "uid": name},
        "attempt": 0,
        "task": "text-generation",
        "model": {"uri": f"s3://{BUCKET}/model/"},
        "storage": {"endpointUrl": server.url},
        "data": {
            "train": [{"uri": f"s3://{BUCKET}/{workload.train.name}"}],
            "validation": [{"uri": f"s3://{BUCKET}/{workload.held_out.name}"}],
        },
        "method": {"lora": {"rank": 16, "alpha": 32}} | (method or {}),
        "training": {
            "epochs": 1,
            "learningRate": setting.learning_rate,
            "schedule": "linear",
            "warmupFraction": 0,
            "batchSize": setting.batch_size,
            "maxLength": setting.longest,
            "seed": setting.seed,
            "precision": "bf16" if setting.dtype == "bfloat16" else "fp32",
        }
        | training,
        "evaluation": {"baseline": method is None},
        "outputPrefix": f"s3://{BUCKET}/out/{name}/",
    }


def train(
    server: Server,
    workload: Workload,
    name: str,
    training: dict[str, Any],
    out: Path,
    from_disk: bool = False,
    method: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Runs the trainer in a process of its own, fetches the adapter to ``out``, and returns what it took.

    ``from_disk``: the model is not in S3. With ``method`` what comes before the first step is counted too: references.
    """
    scratch = out.with_name(f"{out.name}-scratch")
    scratch.mkdir(parents=True)
    run = scratch / "run.json"
    run.write_text(json.dumps(run_file(server, workload, name, training, method)))
    log = scratch / "termination-log"
    figures = measured(
        *("-m", "benchmarks.trainer.ours", "--run", str(run)),
        *(("--model", str(workload.model)) if from_disk else ()),
        *(("--references",) if method else ()),
        FINETUNE_SCRATCH=str(scratch),
        FINETUNE_TERMINATION_LOG=str(log),
    )
    location = json.loads(log.read_bytes())["result"]["adapterURI"]
    server.get_directory(location.removeprefix(f"s3://{BUCKET}/"), out)
    return figures


def train_whole(
    server: Server, section: str, task: str, training: dict[str, Any], evaluation: dict[str, Any], out: Path
) -> dict[str, Any]:
    """Trains all weights of the model below ``<section>/`` on train.jsonl by the section's own way into the trainer
    (``python -m benchmarks.trainer.<section> ours``), fetches the model to ``out``, and returns what it took.

    ``training`` and ``evaluation`` add to the sections of these names.
    """
    scratch = out.with_name(f"{out.name}-scratch")
    scratch.mkdir()
    content = {
        "contract": 1,
        "job": {"namespace": BUCKET, "name": section, "uid": out.name},
        "attempt": 0,
        "task": task,
        "model": {"uri": f"s3://{BUCKET}/{section}/"},
        "storage": {"endpointUrl": server.url},
        "data": {
            "train": [{"uri": f"s3://{BUCKET}/train.jsonl"}],
            "validation": [{"uri": f"s3://{BUCKET}/held_out.jsonl"}],
        },
        "method": {"adapter": "none"},
        "training": {"schedule": "linear", "warmupFraction": 0, "precision": "fp32"} | training,
        "evaluation": {"baseline": False} | evaluation,
        "outputPrefix": f"s3://{BUCKET}/out/{out.name}/",
    }
    (scratch / "run.json").write_text(json.dumps(content))
    log = scratch / "termination-log"
    figures = measured(
        *("-m", f"benchmarks.trainer.{section}", "ours", "--run", str(scratch / "run.json")),
        FINETUNE_SCRATCH=str(scratch),
        FINETUNE_TERMINATION_LOG=str(log),
    )
    location = json.loads(log.read_bytes())["result"]["modelURI"]
    server.get_directory(location.removeprefix(f"s3://{BUCKET}/"), out)
    return figures


def main(more: Callable[[], dict[str, Any]] = dict) -> int:
    """The trainer, with a meter from ``begin_training`` to the last step; ``more`` tells other figures at the end."""
    from benchmarks.trainer.meter import Meter
    from finetune_trainer.__main__ import main as trainer
    from finetune_trainer.models import fetch
    from finetune_trainer.models.modelfiles import ModelFiles
    from finetune_trainer.progress import Progress, StepDone

    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path)
    parser.add_argument("--references", action="store_true")
    chosen, sys.argv[1:] = parser.parse_known_args()
    if chosen.model:
        fetch.fetch_model = lambda location, _store, _directory: ModelFiles(chosen.model, location.uri)
    meter = Meter()
    steps: list[StepDone] = []
    begin, trained, plan = Progress.begin_training, Progress.trained, Progress.plan

    def metered_begin(progress: Progress) -> None:
        begin(progress)
        if not chosen.references:
            meter.start()

    def metered_plan(progress: Progress, *arguments: Any) -> None:
        plan(progress, *arguments)
        if chosen.references:  # they are computed next
            meter.start()

    def metered_trained(progress: Progress, done: StepDone) -> None:
        trained(progress, done)
        steps.append(done)
        if done.step == done.total:
            meter.stop()

    Progress.begin_training, Progress.trained = metered_begin, metered_trained  # type: ignore[method-assign]
    Progress.plan = metered_plan  # type: ignore[method-assign]
    code = trainer()
    if code == 0:
        loss = sum(step.loss for step in steps) / len(steps)
        tell(**meter.figures(), steps=len(steps), useful=sum(step.tokens for step in steps), loss=loss, **more())
    return code


if __name__ == "__main__":
    raise SystemExit(main())
