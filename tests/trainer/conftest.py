"""An S3 server on loopback, a tiny model in it, and runs of the trainer, in this process and in one of their own."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Tiny tensors are fastest on one thread. Set before torch is imported, here and in the processes started from here.
os.environ["OMP_NUM_THREADS"] = "1"

import boto3
import pytest
from accelerate.state import AcceleratorState
from moto.server import ThreadedMotoServer

from finetune_api.run import RunConfig, RunResult
from finetune_trainer.__main__ import tune
from finetune_trainer.ending import run_to_end
from finetune_trainer.progress import Progress
from finetune_trainer.report import Reporter
from finetune_trainer.stopping import StopRequest
from tests import tiny
from tests.faulty_s3 import FaultyS3, in_front_of
from tests.trainer import zygote as zygotes
from tests.trainer.lives import Runs

BUCKET = "team-a"


@dataclass
class S3:
    """The S3 server, with one bucket."""

    url: str
    client: Any

    def put(self, key: str, content: bytes) -> str:
        """Writes an object; returns its URI."""
        self.client.put_object(Bucket=BUCKET, Key=key, Body=content)
        return f"s3://{BUCKET}/{key}"

    def put_directory(self, prefix: str, directory: Path, without: tuple[str, ...] = ()) -> str:
        """Writes the files of a directory; returns the prefix as a URI."""
        for path in directory.iterdir():
            if path.name not in without:
                self.put(f"{prefix}/{path.name}", path.read_bytes())
        return f"s3://{BUCKET}/{prefix}/"

    def get(self, uri: str) -> bytes:
        """Reads an object."""
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        return self.client.get_object(Bucket=bucket, Key=key)["Body"].read()

    def names(self, prefix_uri: str) -> list[str]:
        """Keys below a prefix, relative to it."""
        bucket, _, key = prefix_uri.removeprefix("s3://").partition("/")
        entries = self.client.list_objects_v2(Bucket=bucket, Prefix=key).get("Contents", [])
        return sorted(entry["Key"].removeprefix(key) for entry in entries)

    def report(self, location: str) -> dict[str, Any]:
        """The full report that was published at ``location``."""
        content: dict[str, Any] = json.loads(self.get(f"{location}report.json"))
        return content

    def fetch(self, prefix_uri: str, directory: Path) -> Path:
        """Downloads the objects below a prefix."""
        directory.mkdir(parents=True, exist_ok=True)
        for name in self.names(prefix_uri):
            (directory / name).write_bytes(self.get(prefix_uri + name))
        return directory


@pytest.fixture(scope="session")
def s3() -> Iterator[S3]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    os.environ |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    client = boto3.client("s3", endpoint_url=url, region_name="us-east-1")
    client.create_bucket(Bucket=BUCKET)
    yield S3(url, client)
    server.stop()


@pytest.fixture
def faulty(s3: S3) -> Iterator[FaultyS3]:
    """The same server, behind one that misbehaves as it is told."""
    with in_front_of(s3.url) as server:
        yield server


@pytest.fixture(scope="session")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with a chat template."""
    return tiny.save_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def model_uri(s3: S3, model_directory: Path) -> str:
    return s3.put_directory("models/tiny", model_directory)


@dataclass
class Ended:
    """A run of the trainer that has ended."""

    code: int
    result: RunResult
    """The termination message."""
    config: RunConfig
    out: str = ""
    err: str = ""

    @property
    def location(self) -> str:
        """Where the result lies."""
        assert self.result.result is not None, self.result.error
        return self.result.result.adapter_uri or self.result.result.model_uri or ""

    @property
    def message(self) -> str:
        assert self.result.error is not None
        return self.result.error.message

    def metric(self, name: str) -> tuple[float, float | None]:
        """(tuned, base)"""
        return next((m.value, m.baseline) for m in self.result.metrics if m.name == name)


@dataclass
class Trainer:
    """Builds run files and runs the trainer."""

    s3: S3
    model_uri: str
    directory: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def config(self, **changes: Any) -> RunConfig:
        """A run file: a short LoRA run on tiny.PAIRS, with whole sections replaced by ``changes``."""
        name = self.directory.name
        content: dict[str, Any] = {
            "job": {"namespace": "team-a", "name": "tune", "uid": name},
            "attempt": 0,
            "task": "text-generation",
            "model": {"uri": self.model_uri},
            "storage": {"endpointUrl": self.s3.url},
            "method": {},
            "training": {"maxSteps": 3, "learningRate": 1e-2, "maxLength": 64},
            "evaluation": {},
            "outputPrefix": f"s3://{BUCKET}/out/{name}/",
        }
        if "data" not in changes:
            uri = self.s3.put(f"data/{name}/train.jsonl", tiny.json_lines(*tiny.PAIRS))
            content["data"] = {"train": [{"uri": uri}], "validationFraction": 0.2}
        return RunConfig.model_validate(content | changes)

    def data(self, content: bytes, name: str = "train.jsonl", fraction: float = 0.2) -> dict[str, Any]:
        """The data section for one file of this content."""
        uri = self.s3.put(f"data/{self.directory.name}/{name}", content)
        return {"train": [{"uri": uri}], "validationFraction": fraction}

    def run(self, progress: Progress | None = None, stop: StopRequest | None = None, **changes: Any) -> Ended:
        """Runs to the end in this process, which Accelerate otherwise allows to choose its precision only once."""
        AcceleratorState._reset_state(reset_partial_state=True)
        config = self.config(**changes)
        scratch, log = self.directory / "scratch", self.directory / "termination-log"
        scratch.mkdir(exist_ok=True)
        code = run_to_end(lambda: tune(config, scratch, progress or Progress(Reporter(None)), stop), log)
        return Ended(code, RunResult.model_validate_json(log.read_bytes()), config)

    def start(self, config: RunConfig | str, program: tuple[str, ...] = ("-m", "finetune_trainer"), **env: str) -> Any:
        """Starts the trainer as a process of its own."""
        run_file = self.directory / "run.json"
        run_file.write_text(config if isinstance(config, str) else config.to_json())
        (self.directory / "scratch").mkdir(exist_ok=True)
        surroundings = {
            "FINETUNE_SCRATCH": str(self.directory / "scratch"),
            "FINETUNE_TERMINATION_LOG": str(self.directory / "termination-log"),
            "PYTHONUNBUFFERED": "1",
        }
        process = subprocess.Popen(
            [sys.executable, *program, "--run", str(run_file)],
            env=os.environ | surroundings | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def finish(self, process: Any, config: RunConfig | None = None) -> Ended:
        """Waits for a process's end."""
        out, err = process.communicate(timeout=100)
        log = (self.directory / "termination-log").read_bytes()
        return Ended(process.returncode, RunResult.model_validate_json(log), config or self.config(), out, err)


@pytest.fixture
def trainer(s3: S3, model_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trainer]:
    for name in ("HF_HOME", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_PROGRESS_BARS", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "1")  # the trainer sets them for its process, which is ours here
    made = Trainer(s3, model_uri, tmp_path)
    yield made
    for process in made.started:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def zygote() -> Iterator[zygotes.Zygote]:
    with zygotes.started() as process:
        yield process


@pytest.fixture
def runs(s3: S3, trainer: Trainer, zygote: zygotes.Zygote) -> Runs:
    return Runs(s3, trainer, zygote)


@pytest.fixture
def await_line() -> Callable[[Any, str], str]:
    """Reads a process's standard output up to a line that holds a text."""

    def read(process: Any, text: str) -> str:
        seen = []
        for line in process.stdout:
            seen.append(line)
            if text in line:
                return line
        pytest.fail(f"the process ended without saying {text!r}:\n{''.join(seen)}{process.stderr.read()}")

    return read
