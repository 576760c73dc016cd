"""What can be learned: one module for each task and objective, registered here. Needs no torch before one is made."""

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from finetune_trainer.preparation.formats import Format

if TYPE_CHECKING:
    from finetune_api.run import RunConfig
    from finetune_trainer.preparation.data import Dataset
    from finetune_trainer.recipes.recipe import Recipe


@dataclass(frozen=True)
class Entry:
    """Where a recipe is, and which records it takes."""

    name: str
    """``module.Class``, below this package."""
    formats: tuple[Format, ...]
    """In the order in which a file's first record is held against them."""


RECIPES = {
    ("text-generation", "sft"): Entry(
        "language_modeling.LanguageModelingRecipe", ("messages", "prompt-completion", "text", "fields")
    ),
    ("text-generation", "dpo"): Entry("preference.DpoRecipe", ("preference",)),
    ("text-generation", "orpo"): Entry("preference.OrpoRecipe", ("preference",)),
    ("text-generation", "simpo"): Entry("preference.SimpoRecipe", ("preference",)),
    ("text-generation", "kto"): Entry("kto.KtoRecipe", ("feedback",)),
    ("text-generation", "reward"): Entry("reward.RewardRecipe", ("preference",)),
    ("text-classification", "sft"): Entry(
        "text_classification.TextClassificationRecipe", ("text-label", "text-labels")
    ),
    ("token-classification", "sft"): Entry("token_classification.TokenClassificationRecipe", ("token-tags",)),
    ("question-answering", "sft"): Entry("question_answering.QuestionAnsweringRecipe", ("question-answer",)),
    ("text2text-generation", "sft"): Entry("text2text.Text2TextRecipe", ("prompt-completion", "fields")),
}
"""By ``spec.task`` and ``spec.method.objective``."""


def entry_of(config: "RunConfig") -> Entry:
    """The recipe that a run asks for."""
    return RECIPES[config.task, config.method.objective]


def recipe_of(config: "RunConfig", data: "Dataset") -> "Recipe":
    """Made for this run and these data; imports torch.

    Raises:
        TrainerError: the data cannot be learned from in this way.
    """
    module, _, name = entry_of(config).name.rpartition(".")
    made: Recipe = getattr(import_module(f"{__name__}.{module}"), name)(config, data)
    return made
