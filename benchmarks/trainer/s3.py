"""What S3 costs: the processor time of a download, and how far an upload stops the training loop beside it.

Downloads go to the disk, from a server in another process; only the client's processor time counts. ``download_file``
makes no digest, so it is compared with a download that makes none, and beside one that does it is followed by one.
Over TLS most of the processor's time is TLS itself, which both take from OpenSSL by records of 16 KiB.

An upload shares Python's lock and the machine with the loop. How long the loop was stopped is not to be seen from the
duration of its steps, which swings with whatever else the machine does. It is what is left of the wall time after the
time that the loop's thread was running and the time that it was ready to run but had no processor, both of which the
kernel counts for each thread: the loop never sleeps of itself, so the rest is waiting for the uploading threads.
"""

import hashlib
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.row import NotHere, Row, at_most
from benchmarks.trainer.plain_s3 import serving
from benchmarks.trainer.process import measured, tell
from finetune_api.spec import Storage
from finetune_trainer.background import start
from finetune_trainer.checkpoints.uploads import RATE
from finetune_trainer.storage.parallel import Group
from finetune_trainer.storage.store import Store

DOWNLOADED, UPLOADED = 128, 200
"""MiB."""
PROCESSES, REPETITIONS = 5, 4
"""Downloads that a process makes. The least of all counts: the machine is not ours alone."""
OURS, THEIRS = "fetch_all", "download_file"
OURS_HASHED, THEIRS_HASHED = "download_all, with SHA-256", "download_file, then SHA-256"
KINDS = (OURS, THEIRS, OURS_HASHED, THEIRS_HASHED)
_COUNTS = Path("/proc/thread-self/schedstat")
_PREFIX = "s3://bucket/"


def rows() -> list[Row]:
    """Measures both."""
    if not _COUNTS.exists():
        raise NotHere(f"the kernel does not tell how long a thread waited for a processor ({_COUNTS})")
    with serving() as url:
        plain = _of_downloads(measure_downloads(url, DOWNLOADED, PROCESSES))
        uploads = _of_uploads([measure_upload(url, UPLOADED) for _ in range(PROCESSES)])
    with tempfile.TemporaryDirectory() as directory, serving(authority := Path(directory) / "ca.pem") as url:
        least = measure_downloads(url, DOWNLOADED, PROCESSES, (OURS, THEIRS), AWS_CA_BUNDLE=str(authority))
    return [*plain, Row("S3 download over TLS, client CPU ÷ download_file", least[OURS] / least[THEIRS], "×"), *uploads]


def measure_downloads(
    url: str, size: int, processes: int, kinds: Sequence[str] = KINDS, **env: str
) -> dict[str, float]:
    """CPU-milliseconds a MiB of each kind of download, for objects of ``size`` MiB."""
    least = dict.fromkeys(kinds, float("inf"))
    for _ in range(processes):
        for kind in kinds:
            found = _contender("download", kind, url, str(size), **env)
            least[kind] = min(least[kind], found["cpu"] * 1000 / size)
    return least


def measure_upload(url: str, size: int) -> dict[str, float]:
    """How far a loop was stopped beside an upload of ``size`` MiB."""
    return _contender("upload", url, str(size))


def _of_downloads(least: dict[str, float]) -> list[Row]:
    note = f"{DOWNLOADED} MiB, least of {PROCESSES * REPETITIONS}"
    plain, hashed = least[OURS] / least[THEIRS], least[OURS_HASHED] / least[THEIRS_HASHED]
    return [
        *(Row(f"S3 download, {kind}", cpu, "CPU-ms/MiB") for kind, cpu in least.items()),
        Row("S3 download, client CPU ÷ download_file", plain, "×", at_most(0.5), note),
        Row("S3 download with SHA-256, client CPU ÷ download_file and SHA-256", hashed, "×"),
    ]


def _of_uploads(found: list[dict[str, float]]) -> list[Row]:
    middle = statistics.median_low(one["share"] for one in found)
    seconds = statistics.median(one["seconds"] for one in found)
    alone = statistics.median(one["alone"] for one in found)
    cpu = statistics.median(one["cpu"] for one in found)
    note = f"while {UPLOADED} MiB are sent, in {seconds:.1f} s; without an upload: {alone:.1%}"
    return [
        Row("checkpoint upload, share of the loop's time that it is stopped", 100 * middle, "%", at_most(2), note),
        Row("checkpoint upload, longest stop", 1000 * max(one["longest"] for one in found), "ms"),
        Row("checkpoint upload, client", cpu * 1000 / UPLOADED, "CPU-ms/MiB"),
    ]


def _contender(*arguments: str, **env: str) -> dict[str, Any]:
    credentials = {"AWS_ACCESS_KEY_ID": "benchmark", "AWS_SECRET_ACCESS_KEY": "benchmark"}
    return measured("-m", __name__, *arguments, OMP_NUM_THREADS="1", **credentials, **env)


def _ours(url: str, name: str, directory: Path) -> Callable[[], Any]:
    return partial(Store(Storage(endpoint_url=url)).fetch_all, _PREFIX, [name], directory)


def _ours_hashed(url: str, name: str, directory: Path) -> Callable[[], Any]:
    return partial(Store(Storage(endpoint_url=url)).download_all, _PREFIX, [name], directory)


def _theirs(url: str, name: str, directory: Path) -> Callable[[], Any]:
    import boto3
    from botocore.config import Config

    config = Config(request_checksum_calculation="when_required", response_checksum_validation="when_required")
    client = boto3.client("s3", endpoint_url=url, region_name="us-east-1", config=config)
    return partial(client.download_file, "bucket", name, str(directory / name))


def _theirs_hashed(url: str, name: str, directory: Path) -> Callable[[], Any]:
    download = _theirs(url, name, directory)

    def both() -> None:
        download()
        with (directory / name).open("rb") as file:
            hashlib.file_digest(file, "sha256")

    return both


_DOWNLOADS = dict(zip(KINDS, (_ours, _theirs, _ours_hashed, _theirs_hashed), strict=True))


def _download(kind: str, url: str, size: str) -> None:
    """In a process of its own: some downloads, after everything was imported."""
    with tempfile.TemporaryDirectory() as directory:
        work = _DOWNLOADS[kind](url, size, Path(directory))
        tell(cpu=min(_cpu_of(work, Path(directory) / size) for _ in range(REPETITIONS)))


def _cpu_of(work: Callable[[], Any], written: Path) -> float:
    written.unlink(missing_ok=True)
    before = _cpu()
    work()
    return _cpu() - before


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _upload(url: str, size: str) -> None:
    """In a process of its own: steps alone, and beside an upload."""
    store = Store(Storage(endpoint_url=url))
    store.objects(f"{_PREFIX}checkpoint/")  # makes the client, as a run has it long before its first checkpoint
    step = _training()
    alone = stopped(step, partial(time.sleep, 1))
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "weights").write_bytes(os.urandom(int(size) << 20))
        before = _cpu() - time.thread_time()
        beside = stopped(step, partial(_upload_behind, store, Path(directory)))
        cpu = _cpu() - time.thread_time() - before
    tell(alone=alone["share"], cpu=cpu, **beside)


def _upload_behind(store: Store, directory: Path) -> None:
    """As a checkpoint's weights are uploaded."""
    store.upload_all(directory, ["weights"], f"{_PREFIX}checkpoint/", Group(rate=RATE))


def _training() -> Callable[[], None]:
    """A step of some milliseconds, on one core."""
    import torch

    model = torch.nn.Sequential(*(torch.nn.Linear(256, 256) for _ in range(8)))
    optimizer = torch.optim.AdamW(model.parameters())
    batch = torch.randn(32, 256)

    def step() -> None:
        model(batch).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def stopped(step: Callable[[], None], work: Callable[[], Any]) -> dict[str, float]:
    """Steps for as long as the work takes in a thread of its own: how long, and how far, they were stopped."""
    with _COUNTS.open("rb", buffering=0) as counts:
        done, began = start(work), time.monotonic()
        stops, then = [], _clocks(counts.fileno())
        while not done.done():
            step()
            now = _clocks(counts.fileno())
            wall, running, ready = (end - begin for end, begin in zip(now, then, strict=True))
            stops.append(wall - running - ready)
            then = now
        done.result()
        seconds = time.monotonic() - began
    return {"seconds": seconds, "share": sum(stops) / seconds, "longest": max(stops)}


def _clocks(counts: int) -> tuple[float, float, float]:
    """Seconds on the wall, of this thread on a processor, and of this thread ready for one without having it."""
    ready = int(os.pread(counts, 100, 0).split()[1]) / 1e9
    return time.monotonic(), time.thread_time(), ready


if __name__ == "__main__":
    {"download": _download, "upload": _upload}[sys.argv[1]](*sys.argv[2:])
