"""``python -m finetune_local up`` and ``run``: fine-tuning on this machine, without a cluster."""

import argparse
import asyncio
import contextlib
import io
import logging
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from finetune_api import names
from finetune_local import connection
from finetune_local.client import ApiClient, ApiError
from finetune_local.cluster import ControlPlaneFailed, LocalCluster
from finetune_local.connection import Addresses
from finetune_local.run import documents, job, table
from finetune_local.run.progress import Display
from finetune_local.s3 import REGION

INTERRUPTED = 130


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m finetune_local", description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=Path("build/local"), help="where `up` runs (%(default)s)")
    parser.add_argument("--gpus", type=_count, default=0, help="NVIDIA GPUs of this machine to offer (%(default)s)")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="start API server, S3 and operator, and stay until Ctrl-C")
    run = commands.add_parser(
        "run",
        help="run FineTuneJobs to their end",
        description="Runs the FineTuneJobs of the files one after the other: in the local mode that `up` started, or "
        "in one of its own. FineTuneProfiles of the files are applied before. file:// URIs of data and of a model's "
        "directory are uploaded to the local S3, which is also meant by s3:// where spec.storage is absent. Without "
        "spec.output.uri the result goes there too.",
    )
    run.add_argument(
        "files", nargs="*", type=Path, metavar="job.yaml", help="files with FineTuneJobs and FineTuneProfiles"
    )
    run.add_argument("-f", "--filename", action="append", type=Path, default=[], help="one more file")
    run.add_argument("--out", type=Path, help="directory for the result; with several jobs, one below it for each")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"found {text!r}; expected a whole number, 0 or more")
    return int(text)


async def up(options: argparse.Namespace) -> int:
    """Local mode until it is interrupted."""
    _make_directory("--data-dir", options.data_dir)
    with connection.claimed(options.data_dir):
        began = time.monotonic()
        async with LocalCluster(options.data_dir, extra_capacity=_gpus(options)) as cluster:
            addresses = Addresses.of(cluster)
            ready = time.monotonic() - began
            await job.keep_secret("default", cluster.client, addresses)
            await asyncio.to_thread(lambda: addresses.bucketeer().create_bucket(documents.BUCKET))
            file = connection.publish(options.data_dir, addresses)
            try:
                _tell_addresses(cluster, ready)
                await cluster.watch()
            finally:
                file.unlink(missing_ok=True)
    return 0


def _tell_addresses(cluster: LocalCluster, seconds: float) -> None:
    """What somebody needs who works with kubectl and an S3 client of their own."""
    s3 = cluster.s3
    print(
        f"""Kubernetes  export KUBECONFIG={cluster.kubeconfig}
S3          export AWS_ENDPOINT_URL={s3.endpoint_url} AWS_REGION={REGION}
            export AWS_ACCESS_KEY_ID={s3.access_key} AWS_SECRET_ACCESS_KEY={s3.secret_key}
Operator    log in {cluster.operator_log}

For kubectl apply, a FineTuneJob needs, beside s3:// URIs (there is an empty bucket: s3://{documents.BUCKET}/):
  storage: {{endpointUrl: {s3.endpoint_url}, credentials: {documents.SECRET}}}
  resources: {{gpusPerNode: 0}}
`python -m finetune_local run` fills these in and uploads file:// URIs.

Ready after {seconds:.1f} s. Ctrl-C stops everything.""",
        flush=True,
    )


async def run(options: argparse.Namespace) -> int:
    """FineTuneJobs to their end; 0 if all succeeded."""
    files = [*options.files, *options.filename]
    if not files:
        raise documents.InvalidDocument("run needs a file with a FineTuneJob: python -m finetune_local run job.yaml")
    contents = [(documents.read(file), file) for file in files]
    wanted = [(document, file) for found, file in contents for document in found.jobs]
    if not wanted:
        raise documents.InvalidDocument(f"{', '.join(map(str, files))}: no {names.KIND}; name a file with one, too")
    if options.out and options.out.exists() and (not options.out.is_dir() or any(options.out.iterdir())):
        raise documents.InvalidDocument(f"--out {options.out}: exists and is not empty; name a new directory")
    if options.out:
        _make_directory("--out", options.out)  # now, because nothing keeps the result if this fails after the training
    display = Display(sys.stderr)
    async with _local_mode(options) as addresses, addresses.client() as client:
        code = 0
        for found, file in contents:
            for profile in found.profiles:
                await job.apply_profile(profile, file, client)
        for document, file in wanted:
            done = await job.run(document, file, client, addresses, display)
            display.clear()
            if options.out and job.succeeded(done):  # before anything is printed, which fails where nobody reads it
                directory = options.out if len(wanted) == 1 else options.out / done["metadata"]["name"]
                display.say(await job.fetch(done, addresses, directory))
            _print_resource(done, first=document is wanted[0][0])
            if not job.succeeded(done):
                await _tell_failure(done, client, display)
                code = 1
                break
        await _print_table(done["metadata"]["namespace"], client)
    return code


@contextlib.asynccontextmanager
async def _local_mode(options: argparse.Namespace) -> AsyncIterator[Addresses]:
    """That of ``up`` where it runs, else one of our own, which ends this task if it fails."""
    if (running := connection.discover(options.data_dir)) is not None:
        yield running
        return
    directory = Path(tempfile.mkdtemp(prefix="finetune-local-"))
    try:
        async with LocalCluster(directory, extra_capacity=_gpus(options)) as cluster, _guarded(cluster):
            yield Addresses.of(cluster)
    except ControlPlaneFailed:
        raise  # its message names a log in the directory
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    shutil.rmtree(directory, ignore_errors=True)


@contextlib.asynccontextmanager
async def _guarded(cluster: LocalCluster) -> AsyncIterator[None]:
    """Ends what happens inside when the cluster fails, with that failure."""
    inside = asyncio.current_task()

    def cancel(guard: asyncio.Task[None]) -> None:
        if inside is not None and not guard.cancelled():
            inside.cancel()

    guard = asyncio.create_task(cluster.watch())
    guard.add_done_callback(cancel)
    try:
        yield
    except asyncio.CancelledError:
        if guard.done() and (failure := guard.exception()):
            raise failure from None
        raise
    finally:
        guard.remove_done_callback(cancel)
        guard.cancel()


def _make_directory(option: str, directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as e:
        raise documents.InvalidDocument(f"{option} {directory}: {e.strerror}; name a directory to write to") from None


def _gpus(options: argparse.Namespace) -> dict[str, str]:
    return {"nvidia.com/gpu": str(options.gpus)} if options.gpus else {}


def _print_resource(resource: dict[str, Any], first: bool) -> None:
    resource["metadata"].pop("managedFields", None)
    print("" if first else "---\n", yaml.safe_dump(resource, sort_keys=False, allow_unicode=True), sep="", flush=True)


async def _tell_failure(done: dict[str, Any], client: ApiClient, display: Display) -> None:
    words = await job.last_words(done, client)
    display.say(f"{words.rstrip()}\n{job.explanation(done)}" if words else job.explanation(done))


async def _print_table(namespace: str, client: ApiClient) -> None:
    path = f"/apis/{names.API_VERSION}/namespaces/{namespace}/{names.PLURAL}"
    print(table.render(await client.get(path, accept=table.ACCEPT)), flush=True)


async def _until_signalled(work: Coroutine[Any, Any, int]) -> int:
    task = asyncio.ensure_future(work)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # which nohup asks for
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await task


def main() -> int:
    """The process; the answer is its exit code."""
    options = arguments().parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that knows no arrow is no reason to lose a result
    try:
        return asyncio.run(_until_signalled(up(options) if options.command == "up" else run(options)))
    except (ControlPlaneFailed, connection.AlreadyRuns, documents.InvalidDocument, job.RunFailed) as e:
        return _fail(str(e))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains as it ends
        return 1
    except (ApiError, aiohttp.ClientError) as e:
        return _fail(f"local mode does not answer as expected, or was stopped: {e}")
    except (asyncio.CancelledError, KeyboardInterrupt):
        return 0 if options.command == "up" else INTERRUPTED


def _fail(told: str) -> int:
    print(f"\n{told}" if sys.stderr.isatty() else told, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
