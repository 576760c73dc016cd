"""``FineTuneJob.spec``: fields, defaults, units and cross-field checks.

Everything a user may write is here, also what nothing acts on yet: such fields carry :class:`NotYet` and are refused.
A field's docstring is its description in the CRD and in the reference.
"""

import re
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field

from finetune_api.base import Model, Mutable, NotYet, Rule
from finetune_api.templates import NAMED

Uri = Annotated[str, Field(min_length=6, max_length=1024)]
SecretName = Annotated[str, Field(max_length=253, pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")]
Duration = Annotated[str, Field(max_length=32, pattern=r"^([0-9]+h)?([0-9]+m)?([0-9]+s)?$")]
Quantity = (
    Annotated[int, Field(ge=0, le=2**40)]
    | Annotated[str, Field(max_length=32, pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$")]
)
Share = Annotated[float, Field(ge=0, le=1)]
PLAIN_PATH = Rule(
    "uri",
    "!self.uri.matches('/[.][.]?(/|$)')",
    "uri must not have . or .. between its slashes: name the place itself",
    lambda m: not re.search(r"/\.\.?(/|$)", m.uri),
)
"""HTTP clients take such a part for the folder above, and would ask for another bucket."""

TEMPLATE = Rule(
    "template",
    "!has(self.template) || self.template.contains('{{') || self.template.contains('{%') || "
    f"self.template in {list(NAMED)}",
    f"template is neither Jinja ({{{{ … }}}}) nor one of {', '.join(NAMED)}",
    lambda m: m.template is None or "{{" in m.template or "{%" in m.template or m.template in NAMED,
)


class CombinedAdapter(Model):
    """One adapter among several."""

    uri: Annotated[Uri, Field(pattern=r"^job://[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")]
    """`job://name`: the FineTuneJob of this namespace that published it."""
    weight: Annotated[float, Field(ge=-100, le=100)] | None = None
    """What it counts. Negative: what it learned is taken away. Give it for all adapters or for none. Absent: all count
    the same, and 1 together."""


class Combine(Model):
    """Several adapters of one base, combined into one."""

    adapters: Annotated[tuple[CombinedAdapter, ...], Field(min_length=2, max_length=8)]
    """LoRA adapters of one and the same base."""
    method: Literal["linear", "cat", "svd", "ties", "dare_linear", "dare_ties"] = "linear"
    """How, in PEFT's words. `cat`: the weighted sum of the updates, exactly; the ranks add up. `svd`: the same, as near
    as the highest of the ranks allows. `linear`: the matrices are summed one by one, which is near the sum of the
    updates where the adapters are alike. `ties`: linear, of the largest values whose sign most agree on. `dare_linear`,
    `dare_ties`: the same of values drawn by training.seed, the others being zero. All but cat and svd need adapters of
    one rank."""
    density: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the values that ties, dare_linear and dare_ties keep. Absent: 0.5."""

    rules = (
        Rule(
            "adapters",
            "self.adapters.all(a, self.adapters.exists_one(b, b.uri == a.uri))",
            "combine.adapters must not name a job twice: raise its weight instead",
            lambda c: len({adapter.uri for adapter in c.adapters}) == len(c.adapters),
        ),
        Rule(
            "adapters",
            "self.adapters.all(a, has(a.weight)) || self.adapters.all(a, !has(a.weight))",
            "give a weight for all of combine.adapters or for none",
            lambda c: len({adapter.weight is None for adapter in c.adapters}) == 1,
        ),
        Rule(
            "density",
            "!has(self.density) || self.method in ['ties', 'dare_linear', 'dare_ties']",
            "combine.density is for the methods ties, dare_linear and dare_ties",
            lambda c: c.density is None or c.method in ("ties", "dare_linear", "dare_ties"),
        ),
    )


class ModelSource(Model):
    """The model to start from."""

    uri: Annotated[Uri, Field(pattern=r"^((hf|s3|pvc)://[^/].*|job://[a-z0-9]([a-z0-9.-]*[a-z0-9])?)$")] | None = None
    """Where it lies: `hf://org/name` (Hugging Face hub), `s3://bucket/prefix/` (a directory with config.json, tokenizer
    and safetensors), `job://name` (what another FineTuneJob of this namespace published: a model, or an adapter with
    all that it was built on, see method.from). Give this or combine."""
    combine: Combine | None = None
    """Adapters of several finished FineTuneJobs to start from as one: trained further, or with training.maxSteps 0
    measured and published as it is. Its metrics stand beside those of the base without any of them."""
    revision: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """Branch, tag or commit of an `hf://` model. Absent: the default branch; the commit is recorded in the result."""
    credentials: SecretName | None = None
    """Secret whose key `token` is a Hugging Face token, for gated or private models; also where a `job://` is built on
    one."""

    rules = (
        Rule(
            "uri",
            "has(self.uri) != has(self.combine)",
            "give either model.uri or model.combine, one of the two",
            lambda m: (m.uri is None) != (m.combine is None),
        ),
        Rule(
            "uri",
            "!has(self.uri) || !self.uri.startsWith('pvc://')",
            "pvc:// models are not supported yet: copy the model to S3 and name it with s3://",
            lambda m: not _starts(m, "pvc://"),
        ),
        Rule(
            "revision",
            "!has(self.revision) || (has(self.uri) && self.uri.startsWith('hf://'))",
            "revision is for hf:// models only",
            lambda m: m.revision is None or _starts(m, "hf://"),
        ),
        Rule(
            "credentials",
            "!has(self.credentials) || !has(self.uri) || !self.uri.startsWith('s3://')",
            "credentials are for hf:// models only; S3 credentials go to spec.storage.credentials",
            lambda m: m.credentials is None or not _starts(m, "s3://"),
        ),
        replace(
            PLAIN_PATH, cel=f"!has(self.uri) || {PLAIN_PATH.cel}", holds=lambda m: not m.uri or PLAIN_PATH.holds(m)
        ),
    )


def _starts(model: ModelSource, scheme: str) -> bool:
    return (model.uri or "").startswith(scheme)


class Storage(Model):
    """The S3 account that holds data and output. Absent: AWS, with the pod's own identity."""

    endpoint_url: Annotated[str, Field(max_length=1024, pattern=r"^https?://[^/]+.*$")] | None = None
    """The server, if it is not AWS: `https://minio.example.com:9000`."""
    region: Annotated[str, Field(max_length=64, pattern=r"^[a-z0-9-]+$")] | None = None
    """Region. Absent: `us-east-1`."""
    credentials: SecretName | None = None
    """Secret with the keys `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY` (and `AWS_SESSION_TOKEN`).
    Absent: the identity of the pod's ServiceAccount."""
    checksums: Literal["WhenSupported", "WhenRequired"] | None = None
    """Whether the S3 client adds its own checksums to every transfer. Absent: `WhenSupported` on AWS,
    `WhenRequired` where endpointUrl is given, because some servers refuse them."""


class DataSource(Model):
    """One data file."""

    uri: Annotated[Uri, Field(pattern=r"^s3://[^/]+/(.*[^/])$")]
    """The object: `s3://bucket/path/train.jsonl`. JSON Lines, or plain text (`.txt`, documents between blank lines)."""
    format: (
        Literal[
            "auto",
            "messages",
            "prompt-completion",
            "text",
            "preference",
            "feedback",
            "text-label",
            "text-labels",
            "token-tags",
            "question-answer",
            "fields",
        ]
        | None
    ) = None
    """What a record looks like. For text-generation: `messages` (OpenAI chat), `prompt-completion` (`prompt` and
    `completion`), `text` (`text`, or plain text), `preference` (`chosen` and `rejected`, which may be two conversations
    or texts with a common beginning, or answers to a `prompt`), `feedback` (`prompt`, `completion`, and `label`: true
    for a good answer, false for a bad one). For text-classification: `text-label` (`text`, `label`, and
    `text_pair` where it is about two texts), or `text-labels` (the same with a list `labels`, each of which applies).
    For token-classification: `token-tags` (`tokens`, a list of words, and `tags`, one for each). For
    question-answering: `question-answer` (`question`, `context`, and SQuAD's `answers` with `text` and `answer_start`;
    empty lists: there is no answer). `fields`: any, with a template over them. Absent or `auto`: found out from the
    template and the first record."""
    name: Annotated[str, Field(max_length=32, pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$")] | None = None
    """Name of the set in metrics and report, where there are several: `math` gives `math/eval_loss`. Files of one name
    are one set. Absent: the file's name without its ending, with the folder before it where two are called alike."""
    weight: Annotated[float, Field(gt=0, le=1000)] | None = None
    """Times that an epoch sees each record of this file: 2 is twice, 0.5 every other record (the next epoch sees the
    others), 1.5 all of them once and every other one twice. For data.train only. Absent: 1."""
    template: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    """Prompt template of this file: the name of one of ours ([list](templates.md)), or Jinja, which runs in a sandbox.
    With the variable `messages` it is a chat template, for conversations; else it is over the fields of the records, of
    any kind, and the model learns what stands between the marks:
    `Question: {{ question }} Answer:{% generation %} {{ answer }}{% endgeneration %}`. Absent: in data.validation that
    of the train set of the same name; data.template; the model's chat template."""

    rules = (PLAIN_PATH, TEMPLATE)


DataSources = Annotated[tuple[DataSource, ...], Field(min_length=1, max_length=16)]


class Prepare(Model):
    """What to do to the records before training."""

    deduplicate: bool | None = None
    """Drop records that repeat an earlier one."""
    min_tokens: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """Drop records with fewer tokens."""
    max_tokens: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """Drop records with more tokens."""
    redact: Annotated[tuple[Annotated[str, Field(max_length=64)], ...], Field(max_length=16)] | None = None
    """Kinds of personal data to mask."""
    balance_by: Annotated[str, Field(max_length=128)] | None = None
    """Field of the records whose values are to be balanced."""


class Data(Model):
    """What to train on, and what to measure with."""

    train: DataSources
    """Files to train on. Several are mixed: every step draws from all of them, each by its weight."""
    validation: DataSources | None = None
    """Files to measure on, never trained on. Give this or validationFraction."""
    template: Annotated[str, Field(min_length=1, max_length=16384)] | None = None
    """Prompt template of all files that have none of their own. A chat template is published with the tokenizer.
    Absent: the model's chat template, where there are conversations."""
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of the training records to hold out instead (0.05 is 5 %), drawn by training.seed."""
    test: Annotated[DataSources | None, NotYet()] = None
    """Files for a final measurement."""
    general: Annotated[DataSources | None, NotYet()] = None
    """Files of general text, to measure what was forgotten."""
    prepare: Annotated[Prepare | None, NotYet()] = None
    """What to do to the records before training."""

    rules = (
        Rule(
            "validationFraction",
            "has(self.validation) != has(self.validationFraction)",
            "give either data.validation (files) or data.validationFraction (for example 0.05), one of the two",
            lambda d: (d.validation is None) != (d.validation_fraction is None),
        ),
        Rule(
            "validation",
            "!has(self.validation) || self.validation.all(s, !has(s.weight))",
            "weight is for data.train only: validation files are measured once, record by record",
            lambda d: all(source.weight is None for source in d.validation or ()),
        ),
        Rule(
            "template",
            "has(self.template) || self.train.all(s, !has(s.format) || s.format != 'fields' || has(s.template))",
            "format fields needs a template over the fields: give data.train[].template or data.template",
            lambda d: d.template or all(source.format != "fields" or source.template for source in d.train),
        ),
        TEMPLATE,
    )


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
    config.json says. An adapter's own is method.lora.dropout."""
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


class Gate(Model):
    """A bound that a metric must keep for the result to be published."""

    metric: Annotated[str, Field(max_length=64)]
    """Name of the metric."""
    min: float | None = None
    """Lowest value allowed."""
    max: float | None = None
    """Highest value allowed."""
    min_delta: float | None = None
    """Lowest difference to the base allowed."""
    max_delta: float | None = None
    """Highest difference to the base allowed."""


TextMetric = Literal["bleu", "chrf", "rouge1", "rouge2", "rougeL", "exact_match"]


class Evaluation(Model):
    """How the result is measured: always eval_loss, perplexity and token_accuracy on the held-out records."""

    baseline: bool = True
    """Also measure the untouched base on the same records, so that the gain is known."""
    samples: Annotated[int, Field(ge=0, le=16)] = 0
    """Held-out prompts to answer with the base and with the tuned model, for the report."""
    max_new_tokens: Annotated[int, Field(ge=1, le=4096)] = 64
    """Longest answer, in tokens."""
    every_steps: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """Evaluate after every so many optimizer steps too; all values are in the full report. Absent: at the beginning and
    at the end only."""
    metrics: Annotated[tuple[TextMetric, ...], Field(max_length=32)] | None = None
    """Further metrics, of what the model answers to held-out records: `bleu` and `chrf` (sacrebleu, 0 to 100; for
    `bleu`, texts of four words and more), `rouge1`, `rouge2` and `rougeL` (F-measures, 0 to 1), `exact_match` (share,
    0 to 1). Absent: for text2text-generation `bleu`, `chrf` and the three of ROUGE, else none; an empty list asks for
    none. Between two steps (everySteps) they are measured only where training watches one of them."""
    generate_records: Annotated[int, Field(ge=1, le=100_000)] = 100
    """Held-out records to answer for those metrics, the first ones (of each file in turn): answers take much longer
    than a loss."""
    slice_by: Annotated[str | None, NotYet()] = Field(default=None, max_length=128)
    """Field of the records by whose values the metrics are split."""
    gates: Annotated[tuple[Gate, ...] | None, NotYet()] = Field(default=None, max_length=32)
    """Bounds that must hold for the result to be published."""


class Checkpoint(Model):
    """Checkpoints, from which the next pod goes on where one was evicted or killed. They lie below output.uri and are
    removed once the result is published."""

    every_steps: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """Optimizer steps between two checkpoints. Absent: one every ten minutes, so that a run of a few minutes writes
    none. Whichever it is, a pod that is asked to stop writes one."""
    keep: Annotated[int, Field(ge=1, le=100)] = 2
    """Checkpoints to keep, the newest ones. With two, there is another one where the newest was damaged."""


class Output(Model):
    """Where the result goes."""

    uri: Annotated[Uri, Field(pattern=r"^s3://[^/]+(/.*)?$")]
    """S3 prefix to publish under; every attempt writes below a prefix of its own: `s3://team-a/adapters/`."""
    merge_adapter: bool = False
    """Publish the base with the adapter merged into it, in the number format of its files, instead of the adapter
    alone. The metrics are those of both side by side, of which a merged weight is a rounding."""

    rules = (PLAIN_PATH,)


class Resources(Model):
    """What the training pod asks for."""

    nodes: Annotated[int, Field(ge=1, le=1024)] = 1
    """Pods. More than one is not supported yet."""
    gpus_per_node: Annotated[int, Field(ge=0, le=16)] = 1
    """GPUs (`nvidia.com/gpu`) a pod, which share the work of each step; 0 trains on the CPU."""
    gpu_type: Annotated[str | None, NotYet()] = Field(default=None, max_length=64)
    """Kind of GPU, as the profile names it."""
    cpu: Quantity | None = None
    """CPU requested, as a Kubernetes quantity (`2`, `500m`). Absent: 1, or one for each GPU."""
    memory: Quantity | None = None
    """Memory requested and its limit, as a Kubernetes quantity (`16Gi`). Absent: no limit."""

    rules = (Rule("nodes", "self.nodes == 1", "more than one node is not supported yet", lambda r: r.nodes == 1),)


def _goes_by_evaluations(training: Training) -> bool:
    return training.schedule == "plateau" or bool(training.early_stopping or training.restore_best)


class Scheduling(Model):
    """How the pod gets its place."""

    queue: Annotated[str | None, NotYet()] = Field(default=None, max_length=253)
    """Kueue LocalQueue."""
    priority_class: SecretName | None = None
    """PriorityClass of the training pod."""


class RunPolicy(Model):
    """How a run may fail, wait and end."""

    max_retries: Annotated[int, Field(ge=0, le=10)] = 2
    """Further tries after a failure that another try can mend. A user's fault is never retried."""
    on_out_of_memory: Annotated[Literal["Fail", "HalveMicroBatch"], NotYet(("HalveMicroBatch",))] = "Fail"
    """What to do when memory runs out."""
    on_divergence: Literal["Fail", "Rewind"] = "Fail"
    """What to do when the loss is no number any more, or rises and stays there. `Fail`: end. `Rewind`: go back to the
    last checkpoint, and on with half the learning rate; at most three times."""
    stall_timeout: Annotated[Duration | None, NotYet()] = None
    """Longest time without progress (`30m`)."""
    deadline: Annotated[Duration | None, NotYet()] = None
    """Longest time for the whole job (`4h`)."""
    ttl_after_finished: Annotated[Duration | None, Mutable(), NotYet()] = None
    """Time after which the children of a finished job are deleted; the FineTuneJob itself stays."""


class Tracker(Model):
    """One experiment tracker."""

    type: Literal["mlflow", "wandb", "tensorboard"]
    """Which one."""
    credentials: SecretName | None = None
    """Secret with the tracker's own environment variables."""
    project: Annotated[str, Field(max_length=128)] | None = None
    """Project or experiment."""


class FineTuneJobSpec(Model):
    """What to fine-tune, on what, how, and where the result goes. Immutable but for suspend, cancel and
    runPolicy.ttlAfterFinished."""

    profile: Annotated[str | None, NotYet()] = Field(default=None, max_length=253)
    """FineTuneProfile: the platform team's template for images, nodes, limits and prices."""
    task: Literal[
        "text-generation",
        "text2text-generation",
        "text-classification",
        "token-classification",
        "question-answering",
    ] = "text-generation"
    """What the model is for, in transformers' words. `text-generation`: it goes on from a text (GPT, Llama, Qwen).
    `text2text-generation`: an encoder reads the `prompt`, a decoder writes the `completion` (T5, BART).
    `text-classification`: one label of several, or each that applies, by an encoder (BERT) or a decoder (Llama);
    `token-classification`: a tag for each word (entities, kinds of words); `question-answering`: the part of a text
    that answers a question. These three put a head on the model, if it has none for the data's labels: its weights are
    drawn by training.seed, all of it is trained, and it is published with the adapter. The untouched base is measured
    with that head, too, as it was drawn."""
    model: ModelSource
    """The model to start from."""
    storage: Storage = Storage()
    """The S3 account that holds data and output."""
    data: Data
    """What to train on, and what to measure with."""
    method: Method = Method()
    """How to fine-tune."""
    training: Training = Training()
    """The training loop's settings."""
    evaluation: Evaluation = Evaluation()
    """How the result is measured."""
    checkpoint: Checkpoint = Checkpoint()
    """Checkpoints, from which a run resumes."""
    output: Output
    """Where the result goes."""
    resources: Resources = Resources()
    """What the training pod asks for."""
    scheduling: Scheduling = Scheduling()
    """How the pod gets its place."""
    run_policy: RunPolicy = RunPolicy()
    """How a run may fail, wait and end."""
    tracking: Annotated[tuple[Tracker, ...] | None, NotYet()] = Field(default=None, max_length=8)
    """Experiment trackers."""
    suspend: Annotated[bool, Mutable(), NotYet((True,))] = False
    """Release the GPUs and wait."""
    cancel: Annotated[bool, Mutable(), NotYet((True,))] = False
    """End the job and keep its record."""

    rules = (
        Rule(
            "method",
            "self.task != 'question-answering' || !(self.method.adapter in ['prompt', 'prefix'])",
            "method.adapter prompt and prefix are not for task question-answering: take lora, ia3 or none",
            lambda s: s.task != "question-answering" or s.method.adapter not in ("prompt", "prefix"),
        ),
        Rule(
            "method",
            "self.method.objective == 'sft' || self.task == 'text-generation'",
            "method.objective other than sft is for task text-generation only",
            lambda s: s.method.objective == "sft" or s.task == "text-generation",
        ),
        Rule(
            "method",
            "!has(self.method.from) || (has(self.model.uri) && self.model.uri.startsWith('job://'))",
            "method.from is for a model.uri of job:// only",
            lambda s: s.method.from_ is None or _starts(s.model, "job://"),
        ),
        Rule(
            "method",
            "!has(self.model.combine) || (self.method.adapter in ['lora', 'qlora'] && !has(self.method.lora))",
            "model.combine makes one LoRA adapter, with settings that follow from those combined: "
            "method.adapter may be lora or qlora, without method.lora",
            lambda s: s.model.combine is None or (s.method.adapter in ("lora", "qlora") and s.method.lora is None),
        ),
        Rule(
            "training",
            "!has(self.training.maxSteps) || self.training.maxSteps > 0 || has(self.model.combine) || "
            "(has(self.model.uri) && self.model.uri.startsWith('job://'))",
            "training.maxSteps 0 trains nothing: it is for model.combine, or for the adapter of a job://",
            lambda s: s.training.max_steps != 0 or s.model.combine is not None or _starts(s.model, "job://"),
        ),
        Rule(
            "training",
            "!has(self.training.labelSmoothing) || self.method.objective == 'sft'",
            "training.labelSmoothing is for method.objective sft only",
            lambda s: s.training.label_smoothing is None or s.method.objective == "sft",
        ),
        Rule(
            "evaluation",
            "has(self.evaluation.everySteps) || (self.training.schedule != 'plateau' && "
            "!has(self.training.earlyStopping) && !has(self.training.restoreBest))",
            "give evaluation.everySteps with training.schedule plateau, training.earlyStopping, training.restoreBest: "
            "they go by evaluations",
            lambda s: bool(s.evaluation.every_steps) or not _goes_by_evaluations(s.training),
        ),
        Rule(
            "evaluation",
            "!has(self.evaluation.metrics) || self.task in ['text-generation', 'text2text-generation']",
            "evaluation.metrics are measures of written answers, for task text-generation or text2text-generation only",
            lambda s: s.evaluation.metrics is None or s.task in ("text-generation", "text2text-generation"),
        ),
        Rule(
            "output",
            "!self.output.mergeAdapter || self.method.adapter in ['lora', 'qlora', 'ia3']",
            "output.mergeAdapter is for method.adapter lora, qlora and ia3 only: virtual tokens are no weights of a "
            "model, and with none there is no adapter",
            lambda s: not s.output.merge_adapter or s.method.adapter in ("lora", "qlora", "ia3"),
        ),
        Rule(
            "method",
            "!(self.method.adapter in ['prompt', 'prefix']) || self.task.endsWith('-generation')",
            "method.adapter prompt and prefix are for task text-generation and text2text-generation only: of a task's "
            "own head PEFT would publish a part. Choose lora or ia3",
            lambda s: s.method.adapter not in ("prompt", "prefix") or s.task.endswith("-generation"),
        ),
        Rule(
            "training",
            "self.method.adapter != 'prefix' || self.training.activationCheckpointing != 'always'",
            "method.adapter prefix hands keys and values to layers that training.activationCheckpointing would compute "
            "twice: leave that out, or choose another adapter",
            lambda s: s.method.adapter != "prefix" or s.training.activation_checkpointing != "always",
        ),
    )
