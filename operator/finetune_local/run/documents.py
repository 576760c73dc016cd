"""FineTuneJobs and FineTuneProfiles in a YAML file, and what makes a job fit for local mode: local files to S3, the
local S3 as storage."""

import copy
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune_api import names
from finetune_api.quantity import amount
from finetune_local.run import kubectl_yaml
from finetune_local.s3 import REGION

Object = dict[str, Any]

BUCKET = "finetune-local"
SECRET = "finetune-local-s3"
"""Name of the Secret with the credentials of the local S3."""
_FILE = "file://"


class InvalidDocument(ValueError):
    """A document cannot be run. ``str()`` names file, field, what was found and what is expected."""


@dataclass(frozen=True)
class Contents:
    """What a file holds, in order."""

    jobs: tuple[Object, ...]
    profiles: tuple[Object, ...]


@dataclass(frozen=True)
class Upload:
    """A file or directory of this machine, and where it goes."""

    path: Path
    uri: str
    """``s3://bucket/key``, of a directory ending in ``/``."""


@dataclass(frozen=True)
class Localised:
    """A FineTuneJob that fits local mode."""

    job: Object
    uploads: tuple[Upload, ...]
    buckets: tuple[str, ...]
    """Buckets of the local S3 that must exist."""
    uses_local_s3: bool
    notes: tuple[str, ...] = field(default=())
    """What was filled in, in a user's words."""


def read(file: Path) -> Contents:
    """The FineTuneJobs and FineTuneProfiles of a file.

    Raises:
        InvalidDocument: the file is missing or no YAML, or holds something else.
    """
    try:
        documents = kubectl_yaml.load_all(file.read_text(encoding="utf-8"))
    except OSError as e:
        raise InvalidDocument(f"{file}: {e.strerror}") from None
    except UnicodeDecodeError:
        raise InvalidDocument(f"{file}: not YAML: not a text in UTF-8") from None
    except kubectl_yaml.InvalidYaml as e:
        raise InvalidDocument(f"{file}: not YAML: {e}") from None
    found: dict[str, list[Object]] = {names.KIND: [], names.PROFILE_KIND: []}
    for i, document in enumerate(documents):
        if document is not None:
            found[_kind(document, f"{file}, document {i + 1}")].append(document)
    if not any(found.values()):
        raise InvalidDocument(f"{file}: empty; expected a {names.KIND} (apiVersion {names.API_VERSION})")
    return Contents(tuple(found[names.KIND]), tuple(found[names.PROFILE_KIND]))


def _kind(document: Any, where: str) -> str:
    if not isinstance(document, dict):
        raise InvalidDocument(f"{where}: found {type(document).__name__}, expected a {names.KIND}")
    version, kind = document.get("apiVersion"), document.get("kind")
    if version != names.API_VERSION or kind not in (names.KIND, names.PROFILE_KIND):
        expected = f"apiVersion {names.API_VERSION}, kind {names.KIND} or {names.PROFILE_KIND}"
        raise InvalidDocument(f"{where}: found apiVersion {version}, kind {kind}; expected {expected}")
    return str(kind)


def profile_of(document: Object) -> str:
    """The name of the FineTuneProfile that a job has, if there is one of that name."""
    spec = document.get("spec")
    name = spec.get("profile") if isinstance(spec, dict) else None
    return name if isinstance(name, str) else names.DEFAULT_PROFILE


def localise(
    document: Object, where: Path, endpoint_url: str, node: Mapping[str, Any], profile: Object | None = None
) -> Localised:
    """The job with ``file://`` URIs, storage and output of the local S3; fields of a wrong type are left as they are,
    for the API server to refuse.

    Args:
        document: a FineTuneJob as the user wrote it.
        where: its file; relative paths start from there.
        endpoint_url: of the local S3.
        node: what the local node has to give (``status.allocatable``).
        profile: the FineTuneProfile that the job has, as the API server holds it.

    Raises:
        InvalidDocument: a file that does not exist, or storage that does not go with local files.
    """
    job = copy.deepcopy(document)
    spec = job.get("spec")
    if not isinstance(spec, dict):
        return Localised(job, (), (), uses_local_s3=False)
    uploads = list(_rewrite_files(job, spec, where))
    given = spec.get("storage")
    if given and uploads:
        raise InvalidDocument(
            f"{where}: spec.storage names an S3 account, but {uploads[0].path} is a local file: "
            "remove spec.storage to use the local S3, or upload the file and name it with s3://"
        )
    if not given:
        spec["storage"] = {"endpointUrl": endpoint_url, "region": REGION, "credentials": SECRET}
        _fill_output(spec)
    if spec.get("resources") is None:  # absent, or a key with nothing behind it
        spec["resources"] = {}
    notes = tuple(_fill_resources(spec["resources"], node, profile))
    buckets = {BUCKET, *_bucket_of(spec.get("output"))} if not given else set()
    return Localised(job, tuple(uploads), tuple(sorted(buckets)), uses_local_s3=not given, notes=notes)


def _fill_output(spec: Object) -> None:
    if spec.get("output") is None:
        spec["output"] = {}
    if isinstance(spec["output"], dict) and spec["output"].get("uri") is None:
        spec["output"]["uri"] = f"s3://{BUCKET}/output/"


def _fill_resources(resources: Any, node: Mapping[str, Any], profile: Object | None) -> Iterator[str]:
    """A job that runs alone may have the whole machine, or what its profile lets it have; what was filled in, in
    words. All of its pods run at once."""
    if not isinstance(resources, dict):
        return
    if "gpusPerNode" not in resources and int(node.get("nvidia.com/gpu", 0)) == 0:
        resources["gpusPerNode"] = 0
        yield "no GPU is offered on this machine: spec.resources.gpusPerNode is 0"
    given = (profile or {}).get("spec") or {}
    if "cpu" in resources or "cpu" in given.get("defaults", {}):
        return
    pods = resources.get("nodes") or 1
    pods = pods if isinstance(pods, int) and pods > 0 else 1  # else the API server refuses it
    share = node["cpu"] if pods == 1 else f"{int(amount(node['cpu']) * 1000) // pods}m"
    resources["cpu"] = min(share, given.get("limits", {}).get("cpu", share), key=amount)
    of = "of this machine" if resources["cpu"] == share else f"that {names.PROFILE_KIND} {_name(profile)} allows"
    shared = f", shared by {pods} pods" if resources["cpu"] == share and pods > 1 else ""
    yield f"all CPUs {of}{shared}: spec.resources.cpu is {resources['cpu']}"


def _rewrite_files(job: Object, spec: Object, where: Path) -> Iterator[Upload]:
    name = _name(job)
    for source, field_path in _uris(spec):
        uri = source.get("uri")
        if not isinstance(uri, str):
            continue
        if "://" not in uri:
            usual = "hf://org/name" if field_path == "spec.model" else "s3://bucket/key"
            raise InvalidDocument(
                f"{where}: {field_path}.uri: found {uri!r}; expected {usual}, or file://{uri} for a local path"
            )
        if not uri.startswith(_FILE):
            continue
        path = (where.parent / uri.removeprefix(_FILE)).resolve()
        if not path.exists():
            raise InvalidDocument(f"{where}: {field_path}.uri: {path} does not exist; name an existing file")
        if path.is_dir() != (field_path == "spec.model"):
            expected = "a model's directory" if field_path == "spec.model" else "a file"
            found = "a directory" if path.is_dir() else "no directory"
            raise InvalidDocument(f"{where}: {field_path}.uri: {path} is {found}; expected {expected}")
        place = hashlib.sha256(str(path).encode()).hexdigest()[:8]
        target = f"s3://{BUCKET}/input/{name}/{place}/{path.name}{'/' if path.is_dir() else ''}"
        source["uri"] = target
        yield Upload(path, target)


def _uris(spec: Object) -> Iterator[tuple[Object, str]]:
    """Every part of the spec that may name a local file, with its path."""
    if isinstance(spec.get("model"), dict):
        yield spec["model"], "spec.model"
    data = spec.get("data")
    for name, sources in data.items() if isinstance(data, dict) else ():
        for i, source in enumerate(sources if isinstance(sources, list) else ()):
            if isinstance(source, dict):
                yield source, f"spec.data.{name}[{i}]"


def _name(document: Object | None) -> str:
    meta = (document or {}).get("metadata")
    return str(meta.get("name", "job")) if isinstance(meta, dict) else "job"


def _bucket_of(output: Any) -> set[str]:
    uri = output.get("uri") if isinstance(output, dict) else None
    bucket = uri.removeprefix("s3://").partition("/")[0] if isinstance(uri, str) and uri.startswith("s3://") else ""
    return {bucket} - {""}
