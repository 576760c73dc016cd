"""What a model is trained on and measured by: the data as tokens, of the base's own tokenizer."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial

from transformers import PreTrainedTokenizerBase

from finetune_api.run import ExitCode, RunConfig
from finetune_trainer.errors import TrainerError
from finetune_trainer.evaluation import generation, textmetrics
from finetune_trainer.models.chain import require_same_tokenizer
from finetune_trainer.models.model import load_tokenizer
from finetune_trainer.models.modelfiles import ModelFiles
from finetune_trainer.preparation.data import Dataset, RecordSet
from finetune_trainer.preparation.given import Given, chat_template
from finetune_trainer.preparation.sets import Part, Sets
from finetune_trainer.preparation.turns import end_turns_by
from finetune_trainer.recipes import recipe_of
from finetune_trainer.recipes.recipe import Recipe
from finetune_trainer.scaling.ranks import Ranks


@dataclass(frozen=True)
class Materials:
    """See the module."""

    recipe: Recipe
    tokenizer: PreTrainedTokenizerBase
    chat_template: Given | None
    """The job's, which is published with the tokenizer; None: the model's own stays."""
    train: Sets
    validation: Sets
    prompts: list[generation.Prompt]
    """That are answered whenever the model is measured for people to see."""
    text_metrics: list[str]
    """Those that are made of answers."""
    scored: int
    """The first prompts, whose answers they are made of."""

    @property
    def sets(self) -> Mapping[str, Sets]:
        """All of them, by their use."""
        return {"train": self.train, "validation": self.validation}

    @property
    def longest_row(self) -> int:
        """Tokens that the longest example has in one row."""
        return max(sets.longest_row for sets in self.sets.values())

    @property
    def longest(self) -> int:
        """Tokens of the longest example."""
        return max(max(sets.lengths) for sets in self.sets.values())


def prepare(config: RunConfig, files: ModelFiles, data: Dataset, ranks: Ranks) -> Materials:
    """Makes examples of the records, once a node.

    Raises:
        TrainerError: the base has no tokenizer that is fit for these data, or there is nothing to learn.
    """
    recipe = recipe_of(config, data)
    tokenizer = load_tokenizer(files)
    require_same_tokenizer(tokenizer, files)
    template = chat_template(config.data)
    if template:
        end_turns_by(tokenizer, template, files.name)
    recipe.meet(files, tokenizer)
    wanted = config.evaluation.metrics
    metrics = [name for name in (recipe.text_metrics if wanted is None else wanted) if name in textmetrics.NAMES]
    scored = config.evaluation.generate_records if metrics else 0

    def encode() -> tuple[Sets, Sets, list[generation.Prompt]]:
        return _encode(config, recipe, tokenizer, data, metrics, scored)

    train, validation, prompts = ranks.prepared("examples", encode)
    return Materials(recipe, tokenizer, template, train, validation, prompts, metrics, scored)


def _encode(
    config: RunConfig,
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerBase,
    data: Dataset,
    metrics: list[str],
    scored: int,
) -> tuple[Sets, Sets, list[generation.Prompt]]:
    longest = config.training.max_length
    encoder = cache(partial(recipe.encoder, tokenizer, longest))

    def encode(records: RecordSet, what: str, every: bool) -> Sets:
        parts = ((file, recipe.encode(encoder(file.template), part, what)) for file, part in records.parts)
        sets = Sets(Part(file.set, examples, file.weight, file.source.uri, file.template) for file, examples in parts)
        sets.require_learned(what, every, longest)
        return sets

    train, validation = encode(data.train, "training", True), encode(data.validation, "validation", False)
    count = max(config.evaluation.samples, scored) if recipe.generates else 0
    prompts = generation.prompts(data.validation, count, lambda file: encoder(file.template), tokenizer)
    if scored and not all(prompt.answered for prompt in prompts):
        raise TrainerError(
            ExitCode.CONFIGURATION_INVALID,
            f"spec.evaluation.metrics asks for {', '.join(metrics)}, which needs records that hold an "
            "answer: messages, prompt-completion or fields; some of those held out are plain text. Leave it out.",
        )
    return train, validation, prompts
