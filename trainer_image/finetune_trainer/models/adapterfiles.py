"""The files of an adapter that another FineTuneJob published: fetched, held against its manifest, and looked at before
a library reads them. Needs no torch.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from finetune_api.run import AdapterLocation, Combination, ExitCode
from finetune_trainer.errors import TrainerError, one_line
from finetune_trainer.models.boundedjson import read_object
from finetune_trainer.models.modelcheck import require_no_code, require_plain_file, require_plausible
from finetune_trainer.models.modelfiles import AdapterFiles, download_published, manifest_of, require_room
from finetune_trainer.models.weightfiles import read_header
from finetune_trainer.storage.manifest import Vouched
from finetune_trainer.storage.store import Store

CONFIG, WEIGHTS, TOKENIZER = "adapter_config.json", "adapter_model.safetensors", "tokenizer.json"
HEAD = "config.json"
"""The model's, where the adapter brings a head of its own: what that has learned to tell."""
_FILES = (CONFIG, WEIGHTS, TOKENIZER, HEAD)
KINDS = {"LORA": "lora", "IA3": "ia3", "PROMPT_TUNING": "prompt", "PREFIX_TUNING": "prefix"}
"""``spec.method.adapter`` by PEFT's name of what it publishes."""
MERGEABLE = ("LORA", "IA3")
_NAMES_CODE = ("megatron_config", "layer_replication")
"""Settings by which PEFT would import modules that are named there, or build layers without end."""
_UNCOMBINABLE = {
    "use_dora": "is weight-decomposed (lora.dora)",
    "modules_to_save": "has a head of its own, which was trained with it",
}
"""Settings of LoRA that PEFT's arithmetic does not know, or not for several adapters."""
ANY_RANK = ("cat", "svd")
"""Ways to combine adapters whose ranks may differ."""
_LARGEST = 1 << 16
"""Ranks, virtual tokens and widths."""


def fetch_adapter(location: AdapterLocation, store: Store, directory: Path) -> tuple[AdapterFiles, Vouched]:
    """The adapter and the manifest that vouches for it.

    Raises:
        TrainerError: MODEL_INVALID, STORAGE_REFUSED, STORAGE_UNAVAILABLE or DISK_FULL.
    """
    prefix = f"{location.uri.rstrip('/')}/"
    vouched = manifest_of(prefix, location.digest, store)
    if vouched is None:  # not with a digest
        _refuse(f"No manifest vouches for {prefix}")
    sizes = {file.path: file.size for file in vouched.manifest.files if file.path in _FILES}
    if missing := {CONFIG, WEIGHTS} - sizes.keys():
        _refuse(f"{prefix} is no adapter: its manifest does not name {' and '.join(sorted(missing))}")
    require_room(sizes, directory, prefix)
    download_published(vouched.manifest, list(sizes), store, directory)
    return _looked_at(location, prefix, directory), vouched


def _looked_at(location: AdapterLocation, uri: str, directory: Path) -> AdapterFiles:
    for path in sorted(directory.iterdir()):
        require_plain_file(path, directory, uri)
    config = read_object(directory / CONFIG, uri)
    require_no_code(config, CONFIG, uri)
    tensors = read_header(directory / WEIGHTS, uri)
    if (directory / HEAD).exists():
        head = read_object(directory / HEAD, uri)
        require_no_code(head, HEAD, uri)
        require_plausible(head, len(tensors), uri)
    kind = config.get("peft_type")
    if kind not in KINDS:
        _refuse(f"{CONFIG} of {uri} says peft_type {one_line(kind, 40)}, where {', '.join(KINDS)} are known")
    if named := next((name for name in _NAMES_CODE if config.get(name)), None):
        _refuse(f"{CONFIG} of {uri} says {named}, which is never followed")
    if not isinstance(config.get("target_modules"), list | None):
        _refuse(f"{CONFIG} of {uri} says target_modules {one_line(config['target_modules'], 40)}: expected are names")
    _require_sizes(config, {tensor.shape for tensor in tensors.values()}, uri)
    return AdapterFiles(directory, uri, location.digest, location.job, location.weight, config)


def _require_sizes(config: dict[str, Any], shapes: set[tuple[int, ...]], uri: str) -> None:
    """Refuses numbers that would take memory for weights that are not there."""
    most = max((max(shape, default=0) for shape in shapes), default=0)
    for name, value in config.items():
        limit = most if name in ("r", "num_virtual_tokens") else _LARGEST
        if isinstance(value, int) and not 0 <= value <= limit:
            _refuse(f"{CONFIG} of {uri} says {name} {one_line(value, 24)}, and its weights speak for {limit} at most")


def require_combinable(adapters: Sequence[AdapterFiles], how: Combination) -> None:
    """Refuses adapters that cannot become one, by their configurations.

    Raises:
        TrainerError: MODEL_INVALID.
    """
    first, *others = adapters
    for adapter in adapters:
        if odd := next((what for name, what in _UNCOMBINABLE.items() if adapter.config.get(name)), None):
            _refuse_combination(f"{adapter.what} {odd}, and such adapters cannot be combined. Name other jobs")
    alike = {"target_modules": "spec.method.lora.targetModules", "task_type": "spec.task"}
    if how.method not in ANY_RANK:
        alike |= {"r": f"spec.method.lora.rank, or set spec.model.combine.method to {' or '.join(ANY_RANK)}"}
    for other in others:
        for name, field in alike.items():
            one, another = (_told(adapter.config.get(name)) for adapter in (first, other))
            if one != another:
                _refuse_combination(
                    f"{first.what} has {name} {one}, that of {other.job} has {another}, and by {how.method} they "
                    f"cannot be combined. Name jobs with the same {field}"
                )


def _told(value: object) -> str:
    return one_line(", ".join(sorted(map(str, value))) if isinstance(value, list) else value, 200)


def _refuse_combination(what: str) -> NoReturn:
    raise TrainerError(ExitCode.MODEL_INVALID, f"{what}.")


def _refuse(what: str) -> NoReturn:
    raise TrainerError(ExitCode.MODEL_INVALID, f"{what}. Run the job that published it again.")
