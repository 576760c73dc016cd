"""``FineTuneJob.status``: what the operator writes. Latest values only; history belongs to the report."""

from typing import Annotated, Literal

from pydantic import Field

from finetune_api.base import StatusModel
from finetune_api.conditions import ConditionType, Phase, Reason

METRICS_LIMIT = 64
"""Metrics that a status holds."""


class Condition(StatusModel):
    """A condition by the Kubernetes API conventions."""

    type: ConditionType
    """What it is about."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: Reason
    """Why, as a CamelCase constant."""
    message: str = ""
    """Why, as a sentence."""
    last_transition_time: str
    """When status last changed (RFC 3339, UTC)."""
    observed_generation: int | None = None
    """metadata.generation that it speaks of."""


class Plan(StatusModel):
    """What the job is expected to take."""

    gpu_memory_gib: Annotated[float | None, Field(alias="gpuMemoryGiB")] = None
    """GPU memory a device, GiB."""
    gpus: int | None = None
    """GPUs in all."""
    duration_seconds: int | None = None
    """Expected duration."""
    cost: str | None = None
    """Expected cost, with its currency."""


class Progress(StatusModel):
    """How far the training is. Written at most every few seconds, and only when it changed."""

    percent: Annotated[int, Field(ge=0, le=100)] = 0
    """Share of the whole run done, evaluation and publishing included."""
    step: int | None = None
    """Optimizer steps done."""
    total_steps: int | None = None
    """Optimizer steps in all."""
    eta_seconds: int | None = None
    """Seconds left, estimated by the trainer."""
    tokens_per_second: float | None = None
    """Trained tokens (padding does not count) a second."""
    loss: float | None = None
    """Training loss of the last step reported."""
    heartbeat: str | None = None
    """When the trainer last reported (RFC 3339, UTC)."""


class ProfileUsed(StatusModel):
    """What a Job was given by a FineTuneProfile, as that was when the Job was created."""

    name: str
    """Name of the FineTuneProfile."""
    digest: str
    """`sha256:…` of its spec then ([how to compute it](../profiles.md#what-a-job-ran-with))."""
    gpu_type: str | None = None
    """Kind of GPU."""
    price_per_hour: float | None = None
    """Price of one GPU for an hour."""
    currency: str | None = None
    """Currency of the price."""
    max_retries: int | None = None
    """Most retries allowed, whatever spec.runPolicy.maxRetries says."""
    deadline: str | None = None
    """Deadline of a job that gives none itself."""
    stall_timeout: str | None = None
    """Stall time-out of a job that gives none itself."""


class Attempt(StatusModel):
    """One attempt: one Job. It has ended once `finishedAt` is there; a reason before that says why it is stopped."""

    number: int
    """Number, from 0."""
    check: bool | None = None
    """Whether it only checks, before anything is trained (spec.preflight)."""
    job: str | None = None
    """Name of the Job."""
    started_at: str | None = None
    """When it was created (RFC 3339, UTC)."""
    finished_at: str | None = None
    """When it ended (RFC 3339, UTC)."""
    reason: Reason | None = None
    """How it ended."""
    message: str | None = None
    """How it ended, as a sentence."""
    resumed_at_step: int | None = None
    """Step of the checkpoint it started from."""
    profile: ProfileUsed | None = None
    """The FineTuneProfile that it ran with, where it had one. A later change of that changes nothing here."""
    micro_batch_divisor: int | None = None
    """By how much less goes through the model at a time than at first, because memory ran out before. Absent: 1."""


class Checked(StatusModel):
    """What the check before the training found. All of it went as a training would."""

    records: int
    """Records to train on."""
    validation_records: int
    """Records to measure with."""
    tokens: int
    """Tokens of the records to train on, each counted once."""
    longest: int
    """Tokens of the longest record, of either."""
    left_out: int
    """Records that have nothing to learn within training.maxLength tokens."""
    cut: int | None = None
    """Records that lose what they have beyond training.maxLength tokens, of either. Plain text is cut into blocks and
    loses nothing, and a text with questions is read in windows. Absent: an earlier release has checked."""
    duplicates: int
    """Records to measure with that are also trained on, to the letter: what is measured there is memory."""


class CheckpointRef(StatusModel):
    """The newest complete checkpoint."""

    uri: str
    """Where it lies."""
    step: int
    """Optimizer step it was taken at."""


class Metric(StatusModel):
    """One evaluation metric, of the tuned model and of the untouched base on the same records."""

    name: Annotated[str, Field(max_length=64)]
    """Name: eval_loss (nats a token or record), perplexity, token_accuracy; f1, accuracy, precision, recall (of labels:
    means over those that occur; of entities: of all of them), micro_f1 (of several labels); exact_match. The first of a
    job's metrics is the one that `kubectl get` shows. Of one set among several it has the set's name in front:
    `math/eval_loss`."""
    value: float
    """Of the tuned model."""
    baseline: float | None = None
    """Of the base."""


class BuiltOnAdapter(StatusModel):
    """An adapter that is part of a model."""

    uri: str
    """Where it lies."""
    digest: str
    """`sha256:…` of its manifest."""
    job: str
    """FineTuneJob that published it."""


class BuiltOn(StatusModel):
    """What an adapter belongs on: a base, and the adapters that were merged into it first."""

    uri: str
    """Where the base lies: `hf://org/name` or `s3://bucket/prefix/`."""
    revision: str | None = None
    """Commit of the base, if it came from a hub."""
    digest: str | None = None
    """`sha256:…` of the base's manifest, if a FineTuneJob published it."""
    version: str | None = None
    """Of the base's bytes, where neither is known."""
    adapters: Annotated[tuple[BuiltOnAdapter, ...], Field(max_length=8)] = ()
    """Adapters that were merged into it, the first one first."""


class Result(StatusModel):
    """What was published."""

    adapter_uri: Annotated[str | None, Field(alias="adapterURI")] = None
    """Where the adapter lies, if one is published by itself."""
    model_uri: Annotated[str | None, Field(alias="modelURI")] = None
    """Where the model lies (method.adapter none, or output.mergeAdapter)."""
    digest: str | None = None
    """`sha256:…` of the manifest, which holds the SHA-256 of every file."""
    base_model: str | None = None
    """The model it started from, as a URI."""
    revision: str | None = None
    """Commit of the base model, if it came from a hub."""
    rank: int | None = None
    """Rank of the published LoRA adapter: twice that of the training where lora.initialization is pissa or olora."""
    built_on: BuiltOn | None = None
    """What the adapter belongs on."""
    report_uri: Annotated[str | None, Field(alias="reportURI")] = None
    """Where the full report lies (JSON)."""
    gate: str | None = None
    """Whether evaluation.gates held."""


class Usage(StatusModel):
    """What the job took."""

    gpu_seconds: int | None = None
    """GPUs times seconds."""
    trained_tokens: int | None = None
    """Tokens trained on, padding not counted, repetitions counted."""
    cost: str | None = None
    """Cost, with its currency."""


class Headline(StatusModel):
    """The texts of the columns of `kubectl get`: a printer column cannot combine fields."""

    progress: str | None = None
    """Such as `42%`."""
    eta: str | None = None
    """Such as `51m`."""
    metric: str | None = None
    """Name of the metric shown."""
    base_to_tuned: str | None = None
    """Such as `1.83→1.21`."""


class JobReference(StatusModel):
    """The Job of the present attempt."""

    name: str
    """Name, in the same namespace."""
    uid: str | None = None
    """UID, once it is known."""


class FineTuneJobStatus(StatusModel):
    """What became of the job."""

    observed_generation: int | None = None
    """metadata.generation that this status speaks of."""
    phase: Phase | None = None
    """Where the job is. Succeeded, Failed and Cancelled are final."""
    message: str | None = None
    """The story in one sentence: what happens, or what went wrong and what to do."""
    conditions: Annotated[tuple[Condition, ...], Field(max_length=16)] = ()
    """Conditions: Ready, Reconciling and Stalled (kstatus), Validated, QuotaReserved, Trained, Evaluated, Published."""
    headline: Headline | None = None
    """Texts of the columns of `kubectl get`."""
    check: Checked | None = None
    """What the check before the training found (spec.preflight)."""
    plan: Plan | None = None
    """What the job is expected to take."""
    progress: Progress | None = None
    """How far the training is."""
    attempts: Annotated[tuple[Attempt, ...], Field(max_length=10)] = ()
    """The last ten attempts."""
    failures: int | None = None
    """Attempts that count against runPolicy.maxRetries."""
    checkpoint: CheckpointRef | None = None
    """The newest complete checkpoint."""
    metrics: Annotated[tuple[Metric, ...], Field(max_length=METRICS_LIMIT)] = ()
    """Evaluation of the tuned model beside the base: of all validation records, then of each set by itself."""
    result: Result | None = None
    """What was published, and where it lies."""
    usage: Usage | None = None
    """What the job took."""
    input_hash: str | None = None
    """`sha256:…` of the spec that ran."""
    job_ref: JobReference | None = None
    """The Job of the present attempt."""
    start_time: str | None = None
    """When the operator first acted on the job (RFC 3339, UTC)."""
    completion_time: str | None = None
    """When it reached its final phase (RFC 3339, UTC)."""
