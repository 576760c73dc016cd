"""What the log says of a training before its first step."""

import logging
from collections.abc import Sequence

from finetune_trainer.preparation.shown import Shown
from finetune_trainer.scaling.ranks import Ranks
from finetune_trainer.training.loop import Loop
from finetune_trainer.tuning.materials import Materials
from finetune_trainer.tuning.placement import Placed

logger = logging.getLogger(__name__)


def tell(materials: Materials, placed: Placed, loop: Loop, shown: Sequence[Shown], ranks: Ranks) -> None:
    """What is learned, from how much, and how it goes through the model."""
    trainable = sum(p.numel() for p in placed.model.parameters() if p.requires_grad)
    logger.info(
        "%d training and %d validation sequences, %d steps, %s trained parameters, %s on %s",
        *(len(materials.train), len(materials.validation), loop.plan.total_steps),
        *(f"{trainable:,}", placed.subject.precision, placed.device),
    )
    for example in shown:
        logger.info("%s", example)
    if not ranks.alone:
        logger.info(
            "%d processes share the work, and each holds %s",
            *(ranks.count, "a share of the weights (FSDP2)" if placed.sharded else "all weights (DDP)"),
        )
    logger.info(
        "records are %s, at most %d tokens at a time%s",
        *("packed" if placed.layout.packed else "padded", loop.state.fit.tokens),
        ", activations computed twice" if loop.state.fit.recompute else "",
    )
    if cut := materials.train.cut + materials.validation.cut:
        logger.warning("%d records lose what they have beyond training.maxLength tokens", cut)
    if dropped := materials.train.dropped + materials.validation.dropped:
        logger.warning("%d records left out: nothing to learn within training.maxLength tokens", dropped)
