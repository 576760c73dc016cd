"""Weight files, by what their headers say: which tensors there are, in which shapes. No weight is read.

The safetensors library checks a header against the file: sizes, offsets that overlap or lead beyond the end, the length
of the header itself.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from finetune_api.run import ExitCode
from finetune_trainer.errors import TrainerError, is_out_of_memory, one_line
from finetune_trainer.models.boundedjson import read_object

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
"""What transformers looks for: one file, or an index of several."""

_LOOKALIKES = {
    b"PK\3\4": "a zip archive, as torch.save writes it",
    b"\x80": "a pickle",
    b"GGUF": "a GGUF file",
    b"version ": "a pointer of Git LFS, which stands for the file itself",
    b"<": "a web page",
}


@dataclass(frozen=True)
class Tensor:
    """One tensor of a file."""

    dtype: str
    """As safetensors names it: ``F32``, ``BF16`` …"""
    shape: tuple[int, ...]


def read_tensors(directory: Path, uri: str) -> dict[str, Tensor]:
    """The tensors of the model in ``directory``, by name.

    Raises:
        TrainerError: MODEL_INVALID for a file that is missing, cut off, no safetensors file or lies about its content.
    """
    found: dict[str, Tensor] = {}
    for name in _files(directory, uri):
        found |= read_header(directory / name, uri)
    return found


def _files(directory: Path, uri: str) -> list[str]:
    if (directory / SINGLE).exists():
        return [SINGLE]
    places = read_object(directory / INDEX, uri).get("weight_map")
    if not isinstance(places, dict) or not places:
        _refuse(f"{INDEX} of {uri} has no weight_map")
    names = sorted({str(name) for name in places.values()})
    for name in names:
        if "/" in name or not name.endswith(".safetensors") or not (directory / name).is_file():
            _refuse(f"{INDEX} of {uri} names {one_line(name, 100)}, which is not there. Upload the model again, whole")
    return names


def read_header(path: Path, uri: str) -> dict[str, Tensor]:
    """The tensors of one file, by name. Raises TrainerError as :func:`read_tensors` does."""
    from safetensors import safe_open

    try:
        with safe_open(path, framework="np") as file:
            parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
            return {name: Tensor(part.get_dtype(), tuple(part.get_shape())) for name, part in parts.items()}
    except Exception as error:
        if is_out_of_memory(error):
            raise
        _refuse(f"{path.name} of {uri} is not a safetensors file{_rather(path)}: {one_line(error, 200)}", error)


def _rather(path: Path) -> str:
    """What a file is that only bears the name of a safetensors file, or that it is empty."""
    with path.open("rb") as file:
        begin = file.read(8)
    if not begin:
        return " but empty"
    return next((f" but {what}" for magic, what in _LOOKALIKES.items() if begin.startswith(magic)), ", or not whole")


def _refuse(what: str, cause: Exception | None = None) -> NoReturn:
    mend = "" if "Upload" in what else " Upload it again, or write it with save_pretrained."
    raise TrainerError(ExitCode.MODEL_INVALID, f"{what.rstrip('.')}.{mend}") from cause
