"""What S3 costs: the processor time of a download, and how far an upload stops the training loop beside it.

Downloads go to the disk, from a server in another process; only the client's processor time counts. ``download_file``
makes no digest, so it is compared with a download that makes none, and beside one that does it is followed by one.

An upload shares Python's lock and the machine with the loop. How long the loop was stopped is not to be seen from the
duration of its steps, which swings with whatever else the machine does. It is what is left of the wall time after the
time that the loop's thread was running and the time that it was ready to run but had no processor, both of which the
kernel counts for each thread: the loop never sleeps of itself, so the rest is waiting for the uploading threads.
"""

import os
import resource
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.trainer.plain_s3 import serving
from benchmarks.trainer.process import measured, tell
from benchmarks.trainer.row import NotHere, Row, at_most

DOWNLOADED, UPLOADED = 128, 200
"""MiB."""
PROCESSES, REPETITIONS = 5, 4
"""Downloads that a process makes, of which the least counts: the machine is not ours alone."""
_RUN_DELAY = Path("/proc/thread-self/schedstat")


def rows() -> list[Row]:
    """Measures both."""
    if not _RUN_DELAY.exists():
        raise NotHere("the kernel does not tell how long a thread waited for a processor (/proc/thread-self/schedstat)")
    with serving() as url, tempfile.TemporaryDirectory() as scratch:
        return _downloads(url, scratch) + _uploads(url, scratch)


def _downloads(url: str, scratch: str) -> list[Row]:
    least = {kind: float("inf") for kind in _DOWNLOADS}
    for _ in range(PROCESSES):
        for kind in _DOWNLOADS:
            least[kind] = min(least[kind], _contender("download", kind, url, scratch)["cpu"] * 1000 / DOWNLOADED)
    plain = least["ours"] / least["download_file"]
    hashed = least["ours, SHA-256"] / least["download_file, SHA-256"]
    return [
        *(Row(f"S3 download: {kind}", cpu, "CPU-ms/MiB") for kind, cpu in least.items()),
        Row(
            "S3 download: client CPU ÷ download_file",
            plain,
            "×",
            at_most(0.5),
            f"{DOWNLOADED} MiB, least of {PROCESSES * REPETITIONS}",
        ),
        Row("S3 download with SHA-256: client CPU ÷ download_file and a SHA-256", hashed, "×"),
    ]


def _uploads(url: str, scratch: str) -> list[Row]:
    found = [_contender("upload", url, scratch) for _ in range(PROCESSES)]
    middle = sorted(found, key=lambda one: one["share"])[PROCESSES // 2]
    took = f"{UPLOADED} MiB in {middle['seconds']:.1f} s beside {middle['steps']} steps"
    note = f"{took}; the loop without an upload: {middle['alone']:.2%}"
    return [
        Row(
            "checkpoint upload: share of the loop's time that it is stopped",
            100 * middle["share"],
            "%",
            at_most(2),
            note,
        ),
        Row("checkpoint upload: longest stop", 1000 * middle["longest"], "ms"),
        Row("checkpoint upload: client", middle["cpu"] * 1000 / UPLOADED, "CPU-ms/MiB"),
    ]


def _contender(*arguments: str) -> dict[str, Any]:
    credentials = {"AWS_ACCESS_KEY_ID": "benchmark", "AWS_SECRET_ACCESS_KEY": "benchmark"}
    return measured("-m", __name__, *arguments, OMP_NUM_THREADS="1", **credentials)


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _store(url: str) -> Any:
    from finetune_api.spec import Storage
    from finetune_trainer.storage import Store

    return Store(Storage(endpoint_url=url))


def _ours(url: str, directory: Path) -> Any:
    store = _store(url)
    return lambda: store.fetch_all("s3://bucket/", [str(DOWNLOADED)], directory)


def _ours_hashed(url: str, directory: Path) -> Any:
    store = _store(url)
    return lambda: store.download_all("s3://bucket/", [str(DOWNLOADED)], directory)


def _theirs(url: str, directory: Path) -> Any:
    import boto3
    from botocore.config import Config

    config = Config(request_checksum_calculation="when_required", response_checksum_validation="when_required")
    client = boto3.client("s3", endpoint_url=url, region_name="us-east-1", config=config)
    return lambda: client.download_file("bucket", str(DOWNLOADED), str(directory / str(DOWNLOADED)))


def _theirs_hashed(url: str, directory: Path) -> Any:
    import hashlib

    download = _theirs(url, directory)

    def both() -> None:
        download()
        with (directory / str(DOWNLOADED)).open("rb") as file:
            hashlib.file_digest(file, "sha256")

    return both


_DOWNLOADS = {
    "ours": _ours,
    "download_file": _theirs,
    "ours, SHA-256": _ours_hashed,
    "download_file, SHA-256": _theirs_hashed,
}


def download(kind: str, url: str, scratch: str) -> None:
    """In the contender's process: the least of some downloads, after everything was imported."""
    with tempfile.TemporaryDirectory(dir=scratch) as directory:
        work = _DOWNLOADS[kind](url, Path(directory))
        taken = []
        for _ in range(REPETITIONS):
            (Path(directory) / str(DOWNLOADED)).unlink(missing_ok=True)
            before = _cpu()
            work()
            taken.append(_cpu() - before)
        tell(cpu=min(taken))


def upload(url: str, scratch: str) -> None:
    """In the contender's process: steps alone, and beside an upload."""
    import torch

    path = Path(scratch) / "weights"
    path.write_bytes(os.urandom(UPLOADED << 20))
    store = _store(url)
    store.read("s3://bucket/1")
    model = torch.nn.Sequential(*(torch.nn.Linear(256, 256) for _ in range(8)))
    optimizer = torch.optim.AdamW(model.parameters())
    batch = torch.randn(32, 256)

    def step() -> None:
        model(batch).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    alone = _stopped(step, threading.Timer(2, lambda: None))
    before = _cpu(), time.thread_time()
    thread = threading.Thread(target=store.upload_all, args=(Path(scratch), ["weights"], "s3://bucket/checkpoint/"))
    beside = _stopped(step, thread)
    cpu = _cpu() - before[0] - (time.thread_time() - before[1])
    tell(alone=alone["share"], cpu=cpu, **beside)


def _stopped(step: Any, meanwhile: threading.Thread) -> dict[str, float]:
    """Steps for as long as the thread works: how long, and how far, they were stopped."""
    meanwhile.start()
    stops, began, steps = [], time.monotonic(), 0
    while meanwhile.is_alive():
        wall, running, ready = time.monotonic(), time.thread_time(), _ready()
        for _ in range(10):
            step()
        running, ready = time.thread_time() - running, _ready() - ready
        stops.append(time.monotonic() - wall - running - ready)
        steps += 10
    seconds = time.monotonic() - began
    return {"seconds": seconds, "steps": steps, "share": sum(stops) / seconds, "longest": max(stops)}


def _ready() -> float:
    """Seconds that this thread has waited for a processor."""
    return int(_RUN_DELAY.read_text().split()[1]) / 1e9


if __name__ == "__main__":
    {"download": download, "upload": upload}[sys.argv[1]](*sys.argv[2:])
