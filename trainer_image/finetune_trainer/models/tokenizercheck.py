"""What a tokenizer may make of a text, before it gets one: tokenizer.json can ask for far more than it was given.

Its patterns are bounded by themselves: Oniguruma gives up a match after ten million steps, some tenths of a second,
and the library then breaks off (:func:`finetune_trainer.errors.is_panic`). A pattern that stays just below at each
place of a long text is not stopped.
"""

import json
import math
from typing import Any

from transformers import PreTrainedTokenizerBase

from finetune_api.run import ExitCode
from finetune_trainer.errors import TrainerError

_GROWTH = 64
"""Characters made of one. SentencePiece's mark for a space makes two."""
_SPECIAL_TOKENS = 64
"""Put around a text. Known tokenizers add up to four."""


def require_modest(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Refuses a tokenizer that makes very much of little text.

    Raises:
        TrainerError: MODEL_INVALID.
    """
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return
    growth = _growth(json.loads(backend.normalizer.__getstate__())) if backend.normalizer else 1
    added = backend.num_special_tokens_to_add(False)
    if growth > _GROWTH or added > _SPECIAL_TOKENS:
        what = f"puts {added} tokens around each text" if growth <= _GROWTH else "makes pages of single characters"
        raise TrainerError(
            ExitCode.MODEL_INVALID,
            f"The tokenizer of {name} {what}, which no model needs. Choose another model, or mend its tokenizer.json.",
        )


def _growth(part: dict[str, Any]) -> int:
    """How many characters a normalizer makes of one at most, but for Unicode's own forms."""
    steps = part.get("normalizers")
    if steps is not None:
        return math.prod(map(_growth, steps))
    return max(1, len(part.get("content") or ""), 1 + len(part.get("prepend") or ""))
