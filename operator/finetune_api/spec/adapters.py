"""The sections of ``spec.method`` that say what is trained."""

from typing import Annotated, Literal

from pydantic import Field

from finetune_api.base import Model, Rule

ModuleNames = Annotated[
    tuple[Annotated[str, Field(min_length=1, max_length=256)], ...],
    Field(min_length=1, max_length=64),
]
VirtualTokens = Annotated[int, Field(ge=1, le=1024)]


class Lora(Model):
    """Low-rank adaptation, in PEFT's words."""

    rank: Annotated[int, Field(ge=1, le=1024)] = 16
    """Rank of the update matrices (PEFT's `r`)."""
    alpha: Annotated[int, Field(ge=1, le=4096)] = 32
    """Scaling: updates count alpha / rank, or alpha / √rank where rankStabilized is set."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout probability on the adapter's input."""
    rank_stabilized: bool = False
    """Rank-stabilized LoRA (rsLoRA): with a high rank the updates do not fade."""
    dora: bool = False
    """Weight-decomposed LoRA (DoRA): the length of each row of a weight is trained beside its direction. Often better
    with a low rank, and slower."""
    initialization: Literal["default", "pissa", "olora"] = "default"
    """What the adapter starts from. `default`: an update of zero. `pissa`: the principal singular values of each
    weight, which are then trained while the rest is frozen; `olora`: the same with an orthonormal basis of it (QR),
    which is quicker to find. What is published is an ordinary adapter of twice the rank, for the untouched base."""
    target_modules: ModuleNames | None = None
    """Names of the modules to adapt, such as `q_proj`. Absent: all linear layers but the output head."""

    rules = (
        Rule(
            "initialization",
            "!self.dora || self.initialization == 'default'",
            "lora.dora goes with lora.initialization default only",
            lambda lora: not lora.dora or lora.initialization == "default",
        ),
    )


class Ia3(Model):
    """IA³: vectors that scale what chosen modules give, in PEFT's words."""

    target_modules: ModuleNames | None = None
    """Names of the modules to scale. Absent: keys, values and the last layer of each feed-forward block, where PEFT
    knows the architecture."""
    feedforward_modules: Annotated[ModuleNames, Field(min_length=0)] | None = None
    """Which of targetModules are scaled at their input, not at their output: those of the feed-forward blocks. Give it
    with targetModules. Absent: none of those that are given."""

    rules = (
        Rule(
            "feedforwardModules",
            "!has(self.feedforwardModules) || (has(self.targetModules) && "
            "self.feedforwardModules.all(m, m in self.targetModules))",
            "ia3.feedforwardModules must be among ia3.targetModules",
            lambda i: set(i.feedforward_modules or ()) <= set(i.target_modules or ()),
        ),
    )


class Prompt(Model):
    """Prompt tuning: embeddings of virtual tokens, before each record."""

    virtual_tokens: VirtualTokens = 20
    """How many. They take positions of the model."""
    text: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    """Text whose embeddings they start from, such as an instruction; repeated or cut to their number. Absent: tokens
    drawn from the vocabulary."""


class Prefix(Model):
    """Prefix tuning: keys and values of virtual tokens, before each record, in every layer."""

    virtual_tokens: VirtualTokens = 20
    """How many. They take positions of the model."""


class Freeze(Model):
    """Parts of the model that full tuning leaves as they are."""

    embeddings: bool = False
    """The embeddings of tokens, positions and token types; with them the output head, where that is the same weight."""
    layers: Annotated[int, Field(ge=1, le=1024)] | None = None
    """The first so many layers; of an encoder-decoder model, of both its stacks."""
    modules: ModuleNames | None = None
    """Modules by their names, or by the ends of them: `lm_head`, `layers.0.mlp`, `k_proj`."""
