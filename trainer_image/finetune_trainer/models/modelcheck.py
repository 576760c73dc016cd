"""What is refused of a model's files before a library reads them. Needs no torch.

A model is data here, of bounded size: safetensors, JSON and a chat template. Nothing in it may name code to run, a file
elsewhere, or sizes that its weights do not have.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from finetune_api.run import ExitCode
from finetune_trainer.errors import TrainerError, one_line
from finetune_trainer.models.boundedjson import read_object
from finetune_trainer.models.weightfiles import Tensor, read_tensors

_CONFIGURATIONS = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "processor_config.json",
    "preprocessor_config.json",
)
_CODE = ("auto_map", "custom_pipelines")
"""Keys under which a configuration names Python code that comes with the model."""
_QUANTISED = ("quantization_config", "compression_config")
_SMALL_FLOATS = ("F8", "F6", "F4")
_FLAGS = ("output_hidden_states", "output_attentions")
_MOST_LABELS = 30_000
_MOST_EXPERTS = 100_000
_MOST_LAYERS = 10_000
_MOST_POSITIONS = 1 << 26
"""Some architectures write a table of this length. The longest context known is 10 million tokens."""
_LONGEST = {".jinja": 1 << 20, ".txt": 256 << 20, ".model": 256 << 20, ".json": 128 << 20}
"""Bytes. The longest known chat template has 30 KiB, the longest tokenizer.json 60 MiB."""


def require_loadable(directory: Path, root: Path, uri: str, weights: bool = True) -> None:
    """Refuses a model in ``directory`` that is broken, brings code or would take what its weights are not worth.

    Args:
        root: where the files may really lie: the hub's cache makes its directories of links.
        weights: whether they are among the files; what they tell is looked at then.

    Raises:
        TrainerError: MODEL_INVALID.
    """
    for path in sorted(directory.iterdir()):
        require_plain_file(path, root, uri)
    configurations = {
        name: read_object(directory / name, uri) for name in _CONFIGURATIONS if (directory / name).exists()
    }
    for name, content in configurations.items():
        require_no_code(content, name, uri)
    config = configurations["config.json"]
    tensors = read_tensors(directory, uri) if weights else {}
    _require_unquantised(config, tensors, uri)
    require_plausible(config, len(tensors) if weights else _MOST_LAYERS, uri)


def require_plain_file(path: Path, root: Path, uri: str) -> None:
    """Refuses a file that leads elsewhere, or is larger than any of its kind."""
    real = path.resolve()
    if not real.is_file() or not real.is_relative_to(root.resolve()):
        _refuse(f"{one_line(path.name, 100)} of {uri} is not a file of the model but leads elsewhere")
    size, limit = real.stat().st_size, _LONGEST.get(path.suffix)
    if limit is not None and size > limit:
        _refuse(f"{path.name} of {uri} has {size} bytes, and no such file needs more than {limit}")


def require_no_code(content: dict[str, Any], name: str, uri: str) -> None:
    """Refuses a configuration that names Python code."""
    for key, value in _entries(content):
        if key in _CODE and value:
            _refuse(
                f"{uri} brings its own Python code ({key} in {name}), which is never run. Choose a model whose "
                "architecture is part of transformers"
            )


def _require_unquantised(config: dict[str, Any], tensors: dict[str, Tensor], uri: str) -> None:
    how = next((value for key, value in _entries(config) if key in _QUANTISED and value), None)
    if isinstance(how, dict):
        how = how.get("quant_method") or "quantization_config in config.json"
    small = next((f"{name} is {t.dtype}" for name, t in tensors.items() if t.dtype.startswith(_SMALL_FLOATS)), None)
    if how or small:
        _refuse(
            f"{uri} is quantised ({one_line(how or small, 100)}), and a model is trained from its full weights. Name "
            "the model that it was made from"
        )


def require_plausible(config: dict[str, Any], tensors: int, uri: str) -> None:
    """Refuses settings by which a library would build layers, labels or tables without end before it looks at weights.

    And such as it would take as they are and break on later. Widths need no check: a model is laid out without memory
    first, and compared with its files.
    """
    for key, value in _entries(config):
        if isinstance(value, int):
            lowest, highest = _range(key, tensors)
            if not lowest <= value <= highest:
                what = f"config.json of {uri} says {key} {one_line(value, 24)}"
                _refuse(f"{what}, where a number from {lowest} to {highest} is expected")
        if key in _FLAGS and not isinstance(value, bool | None):
            _refuse(f"config.json of {uri} says {key} {one_line(value, 24)}, where true or false is expected")
        if key == "sliding_window" and not isinstance(value, int | None):
            _refuse(f"config.json of {uri} says {key} {one_line(value, 24)}, where a number is expected")


def _range(key: str, tensors: int) -> tuple[int, int]:
    """From and to which number a setting may be."""
    lowest, highest = -(1 << 63), (1 << 63) - 1
    if key.endswith(("layers", "n_layer")):
        return 0, min(max(tensors, 1000), _MOST_LAYERS)
    if key.endswith(("heads", "n_head")):
        return 0, highest
    if key == "num_labels":
        return 0, _MOST_LABELS
    if key.endswith("experts"):
        return lowest, _MOST_EXPERTS
    if key.endswith(("positions", "position_embeddings", "n_ctx", "max_seq_len")):
        return lowest, _MOST_POSITIONS
    return lowest, highest


def _entries(content: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every key with its value, also of the objects within."""
    left = [content]
    while left:
        for key, value in left.pop().items():
            yield key, value
            if isinstance(value, dict):
                left.append(value)


def _refuse(what: str) -> NoReturn:
    raise TrainerError(ExitCode.MODEL_INVALID, f"{what}.")
