"""One FineTuneJob from its document to its end: upload, create, follow, fetch the result."""

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from finetune_api import names
from finetune_api.conditions import ConditionType, Phase, Reason
from finetune_local.client import ApiClient, ApiError
from finetune_local.connection import Addresses
from finetune_local.run.documents import SECRET, Localised, localise, profile_of
from finetune_local.run.progress import Display

Object = dict[str, Any]

_HOPELESS = "Preemption is not helpful"
"""What the scheduler says where waiting does not help either: the one node of local mode does not grow."""
_HOPELESS_SECONDS = 5.0
_LOG_LINES = 20
_UNEXPLAINED = (Reason.TRAINER_CRASHED, Reason.TRAINER_KILLED, Reason.RESULT_MISSING)
"""Reasons for which the log says more than the message."""


_PROFILES = f"/apis/{names.API_VERSION}/{names.PROFILE_PLURAL}"


class RunFailed(Exception):
    """The job was refused, failed or vanished. ``str()`` is what to tell the user."""


async def apply_profile(document: Object, file: Path, client: ApiClient) -> None:
    """Creates a FineTuneProfile, or puts it in place of the one of its name.

    Raises:
        RunFailed: the API server refused it.
    """
    try:
        try:
            await client.create(_PROFILES, document, fieldValidation="Strict")
        except ApiError as e:
            if not e.conflict:
                raise
            path = f"{_PROFILES}/{quote(document['metadata']['name'], safe='')}"
            version = (await client.get(path))["metadata"]["resourceVersion"]
            metadata = document["metadata"] | {"resourceVersion": version}
            await client.replace(path, document | {"metadata": metadata}, fieldValidation="Strict")
    except ApiError as e:
        raise RunFailed(f"{file}: {_refusal(e)}") from None


async def _profile_of(document: Object, client: ApiClient) -> Object | None:
    """The FineTuneProfile that a job has."""
    try:
        return await client.get(f"{_PROFILES}/{quote(profile_of(document), safe='')}")
    except ApiError as e:
        if e.not_found:
            return None
        raise


async def run(document: Object, file: Path, client: ApiClient, addresses: Addresses, display: Display) -> Object:
    """Runs a FineTuneJob; the resource in its final phase.

    Raises:
        InvalidDocument: see :func:`finetune_local.run.documents.localise`.
        RunFailed: the API server refused it, or it was deleted, or it can never start.
    """
    node = await client.get("/api/v1/nodes/local")
    profile = await _profile_of(document, client)
    fit = localise(document, file, addresses.endpoint_url, node["status"]["allocatable"], profile)
    for note in fit.notes:
        display.say(note)
    await _prepare(fit, file, client, addresses)
    collection = f"/apis/{names.API_VERSION}/namespaces/{_namespace(fit.job)}/{names.PLURAL}"
    try:
        job = await client.create(collection, fit.job, fieldValidation="Strict")
    except ApiError as e:
        raise RunFailed(f"{file}: {_refusal(e)}") from None
    return await follow(job, collection, client, display)


async def follow(job: Object, collection: str, client: ApiClient, display: Display) -> Object:
    """Shows a job's progress until its final phase; the resource then.

    Raises:
        RunFailed: it was deleted, or it can never start.
    """
    name = job["metadata"]["name"]
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(None) as patience:
            while True:
                version = job["metadata"]["resourceVersion"]
                async for kind, seen in client.watch(collection, version, fieldSelector=f"metadata.name={name}"):
                    if kind == "DELETED":
                        raise RunFailed(f"{name} was deleted while it ran")
                    if kind not in ("ADDED", "MODIFIED"):
                        continue
                    job = seen
                    display.show(job)
                    if _phase(job).terminal:
                        return job
                    stuck = reason(job) == Reason.UNSCHEDULABLE and _HOPELESS in explanation(job)
                    if stuck != (patience.when() is not None):
                        patience.reschedule(loop.time() + _HOPELESS_SECONDS if stuck else None)
                job = await client.get(f"{collection}/{name}")
    except TimeoutError:
        raise RunFailed(explanation(job)) from None


def reason(job: Object) -> str:
    """The reason of the condition Ready."""
    conditions = (job.get("status") or {}).get("conditions") or ()
    return next((str(c["reason"]) for c in conditions if c["type"] == ConditionType.READY), "")


def succeeded(job: Object) -> bool:
    return _phase(job) is Phase.SUCCEEDED


def explanation(job: Object) -> str:
    """Name, phase, reason and message in one line."""
    status = job.get("status") or {}
    return f"{job['metadata']['name']}: {_phase(job)}: {reason(job)}: {status.get('message', '')}"


async def last_words(job: Object, client: ApiClient) -> str:
    """The end of the trainer's log, where the message does not explain the failure; else nothing."""
    if reason(job) not in _UNEXPLAINED:
        return ""
    pods = f"/api/v1/namespaces/{job['metadata']['namespace']}/pods"
    mine = await client.get(pods, labelSelector=f"{names.LABEL_JOB_UID}={job['metadata']['uid']}")
    newest = max(mine["items"], key=lambda pod: pod["metadata"]["creationTimestamp"], default=None)
    if newest is None:
        return ""
    return await client.text(f"{pods}/{newest['metadata']['name']}/log", tailLines=str(_LOG_LINES))


async def fetch(job: Object, addresses: Addresses, directory: Path) -> str:
    """Downloads the published adapter or model; what to tell about it.

    Raises:
        RunFailed: it could not be downloaded, or not written.
    """
    spec, result = job["spec"], job["status"].get("result") or {}
    uri = result.get("adapterURI") or result.get("modelURI")
    if not uri:
        return f"{job['metadata']['name']} published nothing to download"
    if (spec.get("storage") or {}).get("endpointUrl") != addresses.endpoint_url:
        return f"{uri} is not in the local S3 and was not downloaded"
    with _storage_faults(f"{uri} cannot be downloaded to {directory}"):
        files = await asyncio.to_thread(lambda: addresses.bucketeer().get_directory(uri, directory))
    return f"{uri} → {directory} ({len(files)} files)"


async def _prepare(fit: Localised, file: Path, client: ApiClient, addresses: Addresses) -> None:
    """Buckets, uploads and the Secret that the job refers to; ``file`` is where the job stands."""
    if not fit.uses_local_s3:
        return
    namespace = _namespace(fit.job)
    try:
        await keep_secret(namespace, client, addresses)
    except ApiError as e:
        found = f"there is no namespace {namespace}" if e.not_found else e.message
        hint = "create it first, or leave metadata.namespace out"
        raise RunFailed(f"{file}: metadata.namespace: {found}; {hint}") from None
    await asyncio.to_thread(_upload, fit, file, addresses)


async def keep_secret(namespace: str, client: ApiClient, addresses: Addresses) -> None:
    """The Secret with the keys of the local S3, as jobs of a namespace name it; written anew where it exists.

    Raises:
        ApiError: it cannot be written.
    """
    keys = {"AWS_ACCESS_KEY_ID": addresses.access_key, "AWS_SECRET_ACCESS_KEY": addresses.secret_key}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET}, "stringData": keys}
    path = f"/api/v1/namespaces/{namespace}/secrets"
    try:
        await client.create(path, secret)
    except ApiError as e:
        if not e.conflict:
            raise
        await client.patch(f"{path}/{SECRET}", {"stringData": keys})


def _upload(fit: Localised, file: Path, addresses: Addresses) -> None:
    bucketeer = addresses.bucketeer()
    for bucket in fit.buckets:
        with _storage_faults(f"{file}: spec.output.uri: the bucket {bucket} cannot be made in the local S3"):
            bucketeer.create_bucket(bucket)
    for upload in fit.uploads:
        with _storage_faults(f"{file}: {upload.path} cannot be uploaded to the local S3"):
            if upload.path.is_dir():
                bucketeer.put_directory(upload.uri, upload.path)
            else:
                bucketeer.put_file(upload.uri, upload.path)


@contextlib.contextmanager
def _storage_faults(what: str) -> Iterator[None]:
    """Turns a fault of S3 or of a file into ``RunFailed``, which begins with ``what``."""
    from boto3.exceptions import Boto3Error  # type: ignore[import-untyped]
    from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]

    try:
        yield
    except (OSError, Boto3Error, BotoCoreError, ClientError) as e:
        raise RunFailed(f"{what}: {' '.join(str(e).split())}") from None


def _namespace(job: Object) -> str:
    meta = job.get("metadata")
    return str(meta.get("namespace") or "default") if isinstance(meta, dict) else "default"


def _phase(job: Object) -> Phase:
    return Phase((job.get("status") or {}).get("phase") or Phase.PENDING)


def _refusal(error: ApiError) -> str:
    told = " ".join(error.message.split())
    return f"{told}: delete it first, or give the new one another name" if error.reason == "AlreadyExists" else told
