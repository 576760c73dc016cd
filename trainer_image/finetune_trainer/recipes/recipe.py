"""A recipe: what is learned from which records, and how it is measured. One for each task and objective.

Between them, tuning, loop and evaluation do everything else, and know no recipe's name.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from transformers import PreTrainedTokenizerBase

from finetune_api.run import RunConfig
from finetune_trainer.evaluation.evaluate import Totals
from finetune_trainer.models.head import Head
from finetune_trainer.models.modelfiles import ModelFiles
from finetune_trainer.models.tasks import require_task
from finetune_trainer.preparation.data import Dataset, RecordSet
from finetune_trainer.preparation.encoder import Encoder
from finetune_trainer.preparation.encoding import Encoded, Example
from finetune_trainer.preparation.shown import Labels
from finetune_trainer.training.objective import Objective


class Recipe:
    """See the module. Made once the data are read through, before there is a tokenizer or a model."""

    head: Head
    generates: ClassVar[bool] = False
    """Whether the model writes text, so that it can be asked for answers."""
    text_metrics: ClassVar[tuple[str, ...]] = ()
    """Of these answers, where the user asks for none: names of ``evaluation.metrics``."""
    encoder: ClassVar[type[Encoder]] = Encoder
    """What turns records into examples and into prompts."""
    rates: ClassVar[Mapping[str, float]] = {"adapter": 2e-4, "none": 2e-5}
    """Highest learning rates, where the user gives none: of an adapter, and of the whole model."""

    lower_is_better: ClassVar[tuple[str, ...]] = ("eval_loss",)
    """Those of its metrics of which less is better; of all others, and of all text metrics, more is."""
    dropout: ClassVar[float | None] = None
    """Of the architecture while it is trained, where ``training.dropout`` is not given; None: what config.json says.
    Objectives that compare a model with what it was, or one answer with another, have none: noise in one of the two
    would be taken for a difference."""

    def __init__(self, config: RunConfig, data: Dataset) -> None:
        """Raises TrainerError where these data cannot be learned from in this way."""
        self.config = config

    def meet(self, files: ModelFiles, tokenizer: PreTrainedTokenizerBase) -> None:
        """Looks at the base before it is loaded, and may settle head and tokenizer by what it finds.

        Raises:
            TrainerError: the base cannot learn these data.
        """
        require_task(files, self.head, self.config.task)

    def encode(self, encoder: Encoder, records: RecordSet, what: str) -> Encoded:
        """The records of one file as examples, none where nothing is left to learn; ``what``: training, validation."""
        return encoder.encode(records)

    def labels_of(self, example: Example) -> Labels:
        """What the model shall say of an example, for people to see; nothing, where it is text that it learns."""
        return Labels()

    def objective(self, model: Any) -> Objective:
        """The loss that ``model``, with this recipe's head, learns by."""
        raise NotImplementedError

    def metrics(self, totals: Totals) -> dict[str, float]:
        """The measures of a model by their names, the one that matters most first."""
        raise NotImplementedError
