"""The files of a model: which are needed, which are refused, and how they get from S3 into a directory.

A model is data here: safetensors and JSON. Pickled weights and models that bring their own Python code are refused.
"""

import hashlib
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from finetune_api.run import ExitCode, ModelLocation
from finetune_trainer.errors import TrainerError, disk_full, one_line
from finetune_trainer.models.licence import CARD, licence_of_card, require_licence
from finetune_trainer.models.weightfiles import INDEX, SINGLE
from finetune_trainer.storage.manifest import MANIFEST_NAME, Ancestor, Manifest, Vouched, digest_of
from finetune_trainer.storage.storage_errors import WrongBytes
from finetune_trainer.storage.store import Store

_TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "vocab.txt")
_OTHER_TOKENIZERS = ("tokenizer.model", "spiece.model", "tekken.json", "tiktoken.model")
"""Reading these takes libraries of their own, and they do not tell which characters a token stands for."""
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_ADAPTER = "is an adapter. Start from it by the job:// of the FineTuneJob that published it, or name its base model"
_LONGEST_NAME = 200
"""Bytes. A file system takes 255, and a download adds to the name."""
WEIGHTS = ".safetensors"
_NEEDED = (WEIGHTS, ".json", ".txt", ".model", ".jinja")


@dataclass(frozen=True)
class AdapterFiles:
    """An adapter in a directory, looked at."""

    directory: Path
    uri: str
    digest: str
    """``sha256:…`` of its manifest."""
    job: str
    """Name of the FineTuneJob that published it."""
    weight: float
    """Among those that are combined."""
    config: Mapping[str, Any]
    """adapter_config.json."""

    @property
    def what(self) -> str:
        """It, at the beginning of a sentence."""
        return f"The adapter of FineTuneJob {self.job} ({self.uri})"


@dataclass(frozen=True)
class ModelFiles:
    """A model in a directory."""

    directory: Path
    name: str
    """What PEFT calls the base: the hub's name, or the URI of a model that is not on a hub."""
    revision: str | None = None
    """Commit on the hub."""
    version: str = ""
    """Another one for other bytes under the same name."""
    stack: tuple[AdapterFiles, ...] = ()
    """Adapters to merge into it, the first one first."""
    adapters: tuple[AdapterFiles, ...] = ()
    """The adapter to go on with, or several that become one."""
    lineage: tuple[Ancestor, ...] = ()
    """The jobs whose results all of these are."""

    @property
    def whole_version(self) -> str:
        """The version of it with all its adapters."""
        digests = [adapter.digest for adapter in (*self.stack, *self.adapters)]
        return "+".join([self.version, *digests])


def is_needed(name: str) -> bool:
    """Whether a file belongs to the model itself: not to a copy in another format, not to a subfolder, not hidden."""
    return "/" not in name and name.endswith(_NEEDED) and not name.startswith(("consolidated", "."))


def require_usable_names(names: Iterable[str], uri: str) -> None:
    """Refuses a model by the names of its files alone, before any of them is fetched.

    Raises:
        TrainerError: MODEL_INVALID.
    """
    top = [name for name in names if "/" not in name]
    if not top:
        _refuse(f"{uri} holds no model: there is no file directly under it. Correct spec.model.uri")
    if "adapter_config.json" in top and "config.json" not in top:
        _refuse(f"{uri} {_ADAPTER}")
    if "config.json" not in top:
        _refuse(f"{uri} has no config.json. Name the directory that save_pretrained wrote")
    if not {SINGLE, INDEX} & set(top):
        pickles = ", ".join([one_line(name, 60) for name in top if name.endswith(_PICKLES)][:3])
        held = f": only pickled weights ({pickles}), which can run code and are never loaded" if pickles else ""
        _refuse(
            f"{uri} has no safetensors weights ({SINGLE}, or {INDEX} with its parts){held}. Convert it with "
            "save_pretrained, which writes them, or choose a model that has them"
        )
    if not any(name in top for name in _TOKENIZER_FILES):
        other = next((f" but {name}, which has to be converted" for name in _OTHER_TOKENIZERS if name in top), "")
        _refuse(
            f"{uri} has no tokenizer ({', '.join(_TOKENIZER_FILES)}){other}. Save it beside the model with "
            "AutoTokenizer.save_pretrained"
        )
    _require_plain_names([name for name in top if is_needed(name)], uri)


def _require_plain_names(names: Iterable[str], uri: str) -> None:
    """Refuses names that mean another thing to a file system, or to another file system."""
    seen: dict[str, str] = {}
    for name in names:
        if not name.isprintable() or "\\" in name or len(name.encode(errors="replace")) > _LONGEST_NAME:
            _refuse(f"{uri} has a file with an odd name ({one_line(ascii(name), 100)}). Rename or remove it")
        if (other := seen.setdefault(name.casefold(), name)) != name:
            _refuse(f"{uri} has both {other} and {name}, which some file systems take for one. Remove one of them")


def fetch_from_s3(location: ModelLocation, store: Store, directory: Path, weights: bool = True) -> ModelFiles:
    """Downloads a model's directory; its ``weights`` only where they are wanted. Where a manifest of a FineTuneJob
    names it, every file is checked by its SHA-256.

    Raises:
        TrainerError: MODEL_INVALID for a model that is not there, not usable or not the one that was published,
            DISK_FULL for one that is larger than the room there is.
    """
    prefix = location.uri.rstrip("/") + "/"
    vouched = manifest_of(prefix, location.digest, store)
    manifest = vouched.manifest if vouched else None
    if manifest and manifest.result.result and manifest.result.result.adapter_uri:
        _refuse(f"{prefix} {_ADAPTER}")
    prefix = manifest.location if manifest else prefix
    expected = {file.path: file.sha256 for file in manifest.files} if manifest else {}
    stored = [] if manifest else store.objects(prefix)
    if not manifest and location.licences is not None:
        card = store.read_if_there(f"{prefix}{CARD}")
        require_licence(location, licence_of_card(card) if card else None)
    sizes = {f.path: f.size for f in manifest.files} if manifest else {o.name: o.size for o in stored}
    require_usable_names(sizes, prefix)
    needed = {name: size for name, size in sizes.items() if is_needed(name)}
    wanted = {name: size for name, size in needed.items() if weights or not name.endswith(WEIGHTS)}
    require_room(wanted, directory, location.uri)
    if manifest:
        download_published(manifest, list(wanted), store, directory)
    else:
        store.fetch_all(prefix, list(wanted), directory)
    version = _version(expected or {entry.name: entry.etag for entry in stored if entry.name in needed})
    return ModelFiles(directory, name=location.uri, version=version, lineage=vouched.lineage if vouched else ())


def download_published(manifest: Manifest, names: list[str], store: Store, directory: Path) -> None:
    """Files of a result, each compared with its SHA-256.

    Raises:
        TrainerError: MODEL_INVALID.
    """
    try:
        store.download_all(manifest.location, names, directory, {file.path: file.sha256 for file in manifest.files})
    except WrongBytes as error:
        _refuse(
            f"{error.uri} has SHA-256 {error.found}, its manifest says {error.expected}: it was changed or damaged "
            "after it was published. Publish it again"
        )


def _version(tags: Mapping[str, str]) -> str:
    """A digest of the files' digests or ETags, by name."""
    return hashlib.sha256(repr(sorted(tags.items())).encode()).hexdigest()


def require_room(sizes: Mapping[str, int], directory: Path, uri: str) -> None:
    """Refuses what does not fit before the disk is filled with it."""
    directory.mkdir(parents=True, exist_ok=True)
    if (needed := sum(sizes.values())) > shutil.disk_usage(directory).free:
        raise disk_full(f"the model {uri}", directory, needed)


def manifest_of(prefix: str, digest: str | None, store: Store) -> Vouched | None:
    """The manifest that vouches for ``prefix``: the attempt's own, or that of the folder above."""
    above = prefix.rstrip("/").rpartition("/")[0] + "/"
    for folder in (prefix, above) if above != "s3://" else (prefix,):
        try:
            content = store.read_if_there(f"{folder}{MANIFEST_NAME}") or b""
            manifest = Manifest.model_validate_json(content)
        except ValueError:  # none there, or somebody else's
            continue
        except TrainerError:
            if digest or folder == prefix:
                raise
            continue  # the folder above is no business of a model that was not published by a job
        if digest and digest_of(content) != digest:
            continue
        if manifest.location == prefix or (folder == prefix and manifest.location.startswith(prefix)):
            return Vouched(manifest, digest_of(content))
    if digest:
        _refuse(
            f"No manifest with the digest {digest} vouches for {prefix}: what that job published was changed or "
            "deleted. Run that job again"
        )
    return None


def _refuse(what: str) -> NoReturn:
    raise TrainerError(ExitCode.MODEL_INVALID, f"{what}.")
