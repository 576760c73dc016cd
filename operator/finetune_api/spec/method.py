"""``spec.method``: how to fine-tune. The settings of each objective, and the choice of objective and adapter."""

from typing import Annotated, Literal

from pydantic import Field

from finetune_api.base import Model, Rule
from finetune_api.spec.adapters import Freeze, Ia3, Lora, Prefix, Prompt


def _only_for(section: str, field: str, value: str) -> Rule:
    """A section of the method that is read for one value of another field alone."""
    return Rule(
        section,
        f"!has(self.{section}) || self.{field} == '{value}'",
        f"method.{section} is for method.{field} {value} only",
        lambda m: getattr(m, section) is None or getattr(m, field) == value,
    )


class Dpo(Model):
    """Direct preference optimisation, in TRL's words."""

    beta: Annotated[float, Field(gt=0, le=100)] = 0.1
    """How strongly the model is held to what it was: the higher, the less it moves. With `loss: ipo` it is tau."""
    loss: Literal["sigmoid", "hinge", "ipo"] = "sigmoid"
    """Of the difference between the rewards of the two answers: `sigmoid` (DPO), `hinge` (SLiC), `ipo` (by the
    token)."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Share of the pairs that are taken to be the wrong way round (conservative DPO)."""

    rules = (
        Rule(
            "labelSmoothing",
            "self.labelSmoothing == 0.0 || self.loss == 'sigmoid'",
            "dpo.labelSmoothing is for loss sigmoid only",
            lambda d: d.label_smoothing == 0 or d.loss == "sigmoid",
        ),
    )


class Orpo(Model):
    """Odds ratio preference optimisation: supervised tuning on the chosen answer with a penalty on the rejected one."""

    beta: Annotated[float, Field(gt=0, le=100)] = 0.1
    """Weight of the odds ratio beside the loss on the chosen answer (lambda in the paper)."""


class Simpo(Model):
    """Simple preference optimisation: by the average likelihood of a token, without a reference."""

    beta: Annotated[float, Field(gt=0, le=100)] = 2.0
    """Scale of the rewards."""
    gamma: Annotated[float, Field(ge=0, le=100)] = 1.0
    """By how much the reward of the chosen answer shall be larger. Usually half of beta."""


class Kto(Model):
    """Kahneman-Tversky optimisation, in TRL's words."""

    beta: Annotated[float, Field(gt=0, le=100)] = 0.1
    """How strongly the model is held to what it was: the higher, the less it moves."""
    desirable_weight: Annotated[float, Field(ge=0, le=1000)] = 1.0
    """What a good answer counts. Where good and bad answers are not equally many, choose the weights so that those of
    all good ones together are 1 to 1.33 times those of all bad ones."""
    undesirable_weight: Annotated[float, Field(ge=0, le=1000)] = 1.0
    """What a bad answer counts."""


class Method(Model):
    """How to fine-tune."""

    objective: Literal["sft", "dpo", "orpo", "simpo", "kto", "reward"] = "sft"
    """What is optimised. `sft`: the loss on the completion (the assistant's turns, or the whole of a `text` record).
    On pairs of answers: `dpo`, that the chosen one becomes likelier than it was, and the rejected one less likely;
    `orpo` and `simpo`, without looking at what the model was; `reward`, a model that gives an answer one number, the
    higher the better, published with its head (for AutoModelForSequenceClassification). On answers with a verdict:
    `kto`, that good ones become likelier than they were, and bad ones less likely."""
    adapter: Literal["lora", "qlora", "ia3", "prompt", "prefix", "none"] = "lora"
    """What is trained. Beside the frozen model: `lora`, matrices of low rank; `qlora`, the same beside a base in 4 bits
    (NF4, double quantisation), which takes a quarter of the memory for it and more time; `ia3`, vectors that scale
    keys, values and feed-forward blocks; `prompt`, embeddings of virtual tokens; `prefix`, keys and values of virtual
    tokens in every layer. `none`: the weights of the model itself."""
    from_: Annotated[Literal["continue", "merge"] | None, Field(alias="from")] = None
    """What becomes of the adapter that a `job://` published. `continue`: it is trained on, with the settings that it
    has, and the result belongs on the same base. `merge`: it becomes part of the model, and a new adapter is put on
    top, or with `adapter: none` all weights are trained. Absent: `continue` where this job asks for the same kind of
    adapter and gives no settings of it, since one adapter on one base is the simplest to use; else `merge`."""
    lora: Lora | None = None
    """Settings of `adapter: lora` and `qlora`. Absent: rank 16, alpha 32, no dropout, all linear layers."""
    ia3: Ia3 | None = None
    """Settings of `adapter: ia3`."""
    prompt: Prompt | None = None
    """Settings of `adapter: prompt`. Absent: 20 virtual tokens."""
    prefix: Prefix | None = None
    """Settings of `adapter: prefix`. Absent: 20 virtual tokens."""
    freeze: Freeze | None = None
    """What `adapter: none` leaves as it is. Absent: nothing."""
    dpo: Dpo | None = None
    """Settings of `objective: dpo`."""
    orpo: Orpo | None = None
    """Settings of `objective: orpo`."""
    simpo: Simpo | None = None
    """Settings of `objective: simpo`."""
    kto: Kto | None = None
    """Settings of `objective: kto`."""

    rules = (
        *(_only_for(objective, "objective", objective) for objective in ("dpo", "orpo", "simpo", "kto")),
        Rule(
            "from",
            "!has(self.from) || self.from != 'continue' || self.adapter != 'none'",
            "method.from continue goes on with an adapter: choose its kind in method.adapter, or merge",
            lambda m: m.from_ != "continue" or m.adapter != "none",
        ),
        Rule(
            "from",
            "!has(self.from) || self.from != 'continue' || "
            "(!has(self.lora) && !has(self.ia3) && !has(self.prompt) && !has(self.prefix))",
            "method.from continue keeps the settings that the adapter has: leave method.lora, ia3, prompt and prefix "
            "out, or merge",
            lambda m: m.from_ != "continue" or not (m.lora or m.ia3 or m.prompt or m.prefix),
        ),
        Rule(
            "lora",
            "!has(self.lora) || self.adapter in ['lora', 'qlora']",
            "method.lora is for method.adapter lora and qlora only",
            lambda m: m.lora is None or m.adapter in ("lora", "qlora"),
        ),
        Rule(
            "lora",
            "!has(self.lora) || self.adapter == 'lora' || self.lora.initialization == 'default'",
            "method.lora.initialization pissa and olora take weights apart, which those in 4 bits cannot be: "
            "leave it out, or set method.adapter lora",
            lambda m: m.lora is None or m.adapter == "lora" or m.lora.initialization == "default",
        ),
        *(_only_for(adapter, "adapter", adapter) for adapter in ("ia3", "prompt", "prefix")),
        _only_for("freeze", "adapter", "none"),
        Rule(
            "adapter",
            "!(self.adapter in ['prompt', 'prefix']) || self.objective == 'sft'",
            "method.adapter prompt and prefix are for method.objective sft only: with them a model begins as another "
            "one than the base that it would be held to. Choose lora or ia3",
            lambda m: m.adapter not in ("prompt", "prefix") or m.objective == "sft",
        ),
    )
