"""JSON files of strangers, read in bounded memory."""

import json
from pathlib import Path
from typing import Any

from finetune_api.run import ExitCode
from finetune_trainer.errors import TrainerError, one_line

_LIMITS = {"config.json": 8 << 20, "generation_config.json": 8 << 20}
_LIMIT = 64 << 20
"""Bytes. The longest known index, of a mixture of experts, has 16 MiB, the longest tokenizer_config.json 7."""


def read_object(path: Path, uri: str) -> dict[str, Any]:
    """The JSON object in a file of the model ``uri``.

    Raises:
        TrainerError: MODEL_INVALID, where it is too large, no JSON, nested too deeply or no object.
    """
    size, limit = path.stat().st_size, _LIMITS.get(path.name, _LIMIT)
    if size > limit:
        raise _invalid(f"{path.name} of {uri} has {size} bytes, and no such file needs more than {limit}")
    try:
        content = json.loads(path.read_bytes())
    except RecursionError as error:
        raise _invalid(f"{path.name} of {uri} is nested too deeply") from error
    except ValueError as error:
        raise _invalid(f"{path.name} of {uri} is not JSON: {one_line(error)}") from error
    if not isinstance(content, dict):
        raise _invalid(f"{path.name} of {uri} holds a JSON {type(content).__name__}, not an object")
    return content


def _invalid(what: str) -> TrainerError:
    return TrainerError(ExitCode.MODEL_INVALID, f"{what}. Upload it again.")
