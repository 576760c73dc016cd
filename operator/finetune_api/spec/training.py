"""``spec.training``: the training loop's settings."""

from typing import Annotated, Literal

from pydantic import Field

from finetune_api.base import Model, NotYet, Rule
from finetune_api.spec.fields import Share

Watched = Annotated[str, Field(min_length=1, max_length=64)]


class EarlyStopping(Model):
    """When to stop before the end. Needs evaluation.everySteps."""

    metric: Watched = "eval_loss"
    """The metric to watch; of a loss or perplexity less is better, of any other more."""
    patience: Annotated[int, Field(ge=1, le=1000)] = 3
    """Evaluations in a row without improvement after which the training ends."""
    min_delta: Annotated[float, Field(ge=0, le=1_000_000)] = 0.0
    """An improvement is one by more than this."""


class Plateau(Model):
    """When `schedule: plateau` lowers the learning rate. Needs evaluation.everySteps."""

    metric: Watched = "eval_loss"
    """The metric to watch; of a loss or perplexity less is better, of any other more."""
    patience: Annotated[int, Field(ge=1, le=1000)] = 2
    """Evaluations in a row without improvement after which the rate is lowered."""
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """What the rate is multiplied with."""
    min_delta: Annotated[float, Field(ge=0, le=1_000_000)] = 0.0
    """An improvement is one by more than this."""


class RestoreBest(Model):
    """Which weights are the best. Needs evaluation.everySteps; the last step is measured too."""

    metric: Watched = "eval_loss"
    """The metric that decides; of a loss or perplexity less is better, of any other more."""


class Training(Model):
    """The training loop's settings."""

    epochs: Annotated[float, Field(gt=0, le=1000)] | None = None
    """Passes over the training set; 0.5 is half of it. Give this or maxSteps. Absent, both: 3."""
    max_steps: Annotated[int, Field(ge=0, le=10_000_000)] | None = None
    """Optimizer steps. Give this or epochs. 0: the adapter, or the combination of several, that the job starts from is
    measured and published as it is."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] | None = None
    """Highest learning rate. Absent: 2e-4 for an adapter, 2e-5 for full tuning; for text2text-generation 5e-4 and
    1e-4. Of an adapter, ia3 has 15 times, prefix 50 times and prompt 100 times that."""
    schedule: Literal["cosine", "linear", "constant", "wsd", "plateau"] = "cosine"
    """How the learning rate goes down after the warm-up: to zero by a cosine, to zero in a line, not at all, only at
    the end (`wsd`: warm-up, stable, decay), or whenever the model has stopped getting better (`plateau`)."""
    decay_fraction: Share | None = None
    """Of `schedule: wsd`: share of the steps, the last ones, over which the rate goes down to zero in a line. Absent:
    0.2."""
    plateau: Plateau | None = None
    """Of `schedule: plateau`. Absent: half the rate after two evaluations without a lower eval_loss."""
    warmup_fraction: Share = 0.03
    """Share of the steps over which the learning rate rises from zero."""
    batch_size: Annotated[int, Field(ge=1, le=65536)] = 16
    """Records an optimizer step: the effective batch, whatever the hardware."""
    micro_batch_size: Annotated[int, Field(ge=1, le=65536)] | None = None
    """Records a forward pass; gradients are accumulated up to batchSize. Absent: chosen automatically."""
    activation_checkpointing: Literal["auto", "always", "never"] = "auto"
    """Compute activations again in the backward pass instead of keeping them: less memory, about a third more time.
    `auto`: where the longest record would not fit otherwise."""
    max_length: Annotated[int, Field(ge=8, le=1_048_576)] = 1024
    """Tokens a record is cut to; for text2text-generation, prompt and completion each. What a text-classification reads
    of a text, and a token-classification of its words, ends there; a question-answering reads a longer text in windows
    of this length, which overlap."""
    optimizer: Literal["adamw", "sgd", "rmsprop", "adafactor", "adamw8bit"] = "adamw"
    """Optimizer. What each keeps for a trained weight, beside its gradient: `adamw` 8 bytes, `sgd` 4 with momentum and
    none without, `rmsprop` 4, `adafactor` hardly any, `adamw8bit` (by bitsandbytes) 2."""
    momentum: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Momentum of `sgd` and `rmsprop`. Absent: 0.9 for `sgd`, none for `rmsprop`."""
    weight_decay: Share = 0.0
    """Decoupled weight decay, on matrices only."""
    max_grad_norm: Annotated[float, Field(gt=0, le=1000)] = 1.0
    """Gradients with a larger global norm are scaled down to it."""
    l1: Annotated[float, Field(ge=0, le=1)] | None = None
    """Weight of an L1 penalty: this times the sum of the absolute values of all trained weights is added to the loss.
    The training loss reported is without it; the full report has it as `penalty`. Absent: none."""
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Dropout probability of the model itself while training, wherever its architecture has dropout. Absent: what its
    config.json says; with any `method.objective` but `sft` none, because noise in one of two things that are compared
    would be taken for a difference. An adapter's own is method.lora.dropout."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Share of a target's probability that is spread over all tokens or classes alike while training; 0.1 is usual.
    Measured is without it, and the training loss reported is with it. For `method.objective: sft`. Absent: none."""
    neftune_alpha: Annotated[float, Field(ge=0, le=1000)] | None = None
    """NEFTune: noise on the embeddings of what is read while training, uniform in ±alpha / sqrt(tokens of the record ·
    width of an embedding). 5 is usual. Absent: none."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Keep a moving average of the trained weights: the share of it that stays at each step, such as 0.99 (less in the
    first steps). It is what is measured and published. Absent: none."""
    early_stopping: EarlyStopping | None = None
    """When to stop before the end. Absent: never."""
    restore_best: RestoreBest | None = None
    """Publish the weights that were the best where they were measured, and not the last ones; `{}` for those of the
    lowest eval_loss. Absent: the last ones."""
    seed: Annotated[int, Field(ge=0, le=4294967295)] = 42
    """Seed of the split, of the order of records, of dropout and of new weights."""
    precision: Annotated[Literal["auto", "fp32", "bf16", "fp16"], NotYet(("fp16",))] = "auto"
    """Number format of the computation. `auto`: bf16 on a GPU that has it, else fp32."""

    rules = (
        Rule(
            "maxSteps",
            "!has(self.epochs) || !has(self.maxSteps)",
            "give training.epochs or training.maxSteps, not both",
            lambda t: t.epochs is None or t.max_steps is None,
        ),
        Rule(
            "microBatchSize",
            "!has(self.microBatchSize) || self.microBatchSize <= self.batchSize",
            "training.microBatchSize must not exceed training.batchSize",
            lambda t: t.micro_batch_size is None or t.micro_batch_size <= t.batch_size,
        ),
        Rule(
            "decayFraction",
            "!has(self.decayFraction) || self.schedule == 'wsd'",
            "training.decayFraction is for training.schedule wsd only",
            lambda t: t.decay_fraction is None or t.schedule == "wsd",
        ),
        Rule(
            "plateau",
            "!has(self.plateau) || self.schedule == 'plateau'",
            "training.plateau is for training.schedule plateau only",
            lambda t: t.plateau is None or t.schedule == "plateau",
        ),
        Rule(
            "momentum",
            "!has(self.momentum) || self.optimizer in ['sgd', 'rmsprop']",
            "training.momentum is for training.optimizer sgd or rmsprop only",
            lambda t: t.momentum is None or t.optimizer in ("sgd", "rmsprop"),
        ),
        Rule(
            "learningRate",
            "has(self.learningRate) || self.optimizer != 'sgd'",
            "give training.learningRate with training.optimizer sgd: its rates are hundreds of times those of adamw "
            "(0.1 is a beginning)",
            lambda t: t.learning_rate is not None or t.optimizer != "sgd",
        ),
    )
