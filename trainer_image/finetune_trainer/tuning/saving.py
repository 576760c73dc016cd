"""What is written of a tuned model: the adapter in PEFT's format, or the whole model, and the tokenizer."""

import tempfile
from pathlib import Path

from finetune_trainer.evaluation import generation
from finetune_trainer.models.adapter import save_adapter
from finetune_trainer.models.merging import merged
from finetune_trainer.models.parts import without_adapter
from finetune_trainer.models.quantized import unfolded_config
from finetune_trainer.scaling.ranks import Ranks
from finetune_trainer.scaling.sharding import gather
from finetune_trainer.tuning.materials import Materials
from finetune_trainer.tuning.placement import Placed


def save(materials: Materials, placed: Placed, merges: bool, directory: Path | None, ranks: Ranks) -> None:
    """On the first rank; the others give their share, and need no directory.

    Args:
        merges: whether an adapter becomes part of its base (``output.mergeAdapter``).
    """
    subject, model = placed.subject, placed.model
    adapter, rounded = subject.adapter, subject.rounded_to
    weights = gather(model, rounded, ranks, adapter is None) if placed.sharded else None
    if directory is None:
        return
    if adapter and merges:
        with tempfile.TemporaryDirectory(dir=directory.parent) as aside:
            save_adapter(model, adapter, Path(aside), weights)
            whole = merged(subject.files, subject.head, Path(aside), model)
        whole.save_pretrained(directory)
    elif adapter:
        save_adapter(model, adapter, directory, weights)
    else:
        model.save_pretrained(directory, state_dict=weights)
    if adapter and subject.head.whole and not merges:
        unfolded_config(without_adapter(model).config).save_pretrained(directory)  # labels, padding: not in the base's
    if placed.sharded and rounded:  # it was written with the type of the shares
        model.config.dtype = rounded
        model.config.save_pretrained(directory)
    if materials.chat_template:
        materials.tokenizer.chat_template = materials.chat_template.text
        if adapter is None or merges:
            _save_ends(materials, placed, directory)
    materials.tokenizer.save_pretrained(directory)


def _save_ends(materials: Materials, placed: Placed, directory: Path) -> None:
    """Lets a whole model in use stop where the job's chat template ends a turn; an adapter's base has settings of its
    own, and there the tokenizer tells."""
    model = without_adapter(placed.model)
    if model.generation_config:
        model.generation_config.eos_token_id = generation.ends_of(model, materials.tokenizer)
        model.generation_config.save_pretrained(directory)
