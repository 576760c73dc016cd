"""What the operator hands to the training pod, what the pod says back, and the exit codes.

In: one JSON file (:class:`RunConfig`). Progress: :class:`Report`, Kubeflow Trainer's wire format. Out: the termination
message (:class:`RunResult`), which is authoritative, and the exit code (:class:`ExitCode`), which speaks even when
there is no message.
"""

import re
from enum import IntEnum
from typing import Annotated, Literal, Self

from pydantic import Field

from finetune_api.base import Model, Rule, StatusModel
from finetune_api.conditions import Phase, Reason
from finetune_api.spec import PLAIN, Checkpoint, Data, Evaluation, FineTuneJobSpec, Method, Storage, Training
from finetune_api.status import Checked, Metric, Result, Usage

CONTRACT_VERSION = 1
"""Raised when an older trainer could misread the run file. A trainer refuses any other version."""

MOUNT_PATH = "/etc/finetune"
RUN_FILE = f"{MOUNT_PATH}/run.json"
TOKEN_FILE = f"{MOUNT_PATH}/token"
REPORTS_CA_FILE = f"{MOUNT_PATH}/reports-ca.crt"
SCRATCH_PATH = "/scratch"
"""A writable volume of the pod for downloads and caches; everything else may be read-only."""
TERMINATION_LOG = "/dev/termination-log"
TERMINATION_LOG_LIMIT = 4096
"""Bytes of a termination message that Kubernetes keeps."""
GRACE_SECONDS = 120
"""A pod's terminationGracePeriodSeconds: what a trainer gets between SIGTERM and SIGKILL to save its state. It is the
notice that AWS gives for a spot instance, the longest of the large clouds; more would not be had there."""

CHECKPOINTS = "checkpoints/"
"""Where the checkpoints of a job lie below its prefix, each in a folder of its own."""
CHECKPOINT_NAME = re.compile(r"([0-9]{8})-[0-9a-f]{8}")
"""Of such a folder; the group is the step."""

ENV_SCRATCH = "FINETUNE_SCRATCH"
ENV_TERMINATION_LOG = "FINETUNE_TERMINATION_LOG"
ENV_HF_TOKEN = "HF_TOKEN"
ENV_NODES = "NNODES"
"""Pods of the training; this and the three below only where there are several. torchrun knows them as ``--nnodes``,
``--node-rank``, ``--master-addr`` and ``--master-port``."""
ENV_NODE = "NODE_RANK"
"""Which of them this is, from 0."""
ENV_MEETING_HOST = "MASTER_ADDR"
"""Host name of pod 0."""
ENV_MEETING_PORT = "MASTER_PORT"
MEETING_PORT = 29500
"""At which pod 0 listens for the others; torchrun's own default."""
ENV_REPORTS_URL = "KUBEFLOW_TRAINER_SERVER_URL"
ENV_REPORTS_CA = "KUBEFLOW_TRAINER_SERVER_CA_CERT"
"""Path of a file."""
ENV_REPORTS_TOKEN = "KUBEFLOW_TRAINER_SERVER_TOKEN"
"""Path of a file, which the kubelet renews."""


class ExitCode(IntEnum):
    """How a trainer ends. Whether another attempt can mend it is a matter of the reason: ``conditions.retry_of``."""

    SUCCEEDED = 0
    CONFIGURATION_INVALID = 10
    DATA_INVALID = 11
    MODEL_INVALID = 12
    CONTRACT_MISMATCH = 13
    DIVERGED = 14
    STORAGE_REFUSED = 15
    OUT_OF_MEMORY = 16
    STORAGE_UNAVAILABLE = 20
    PREEMPTED = 21
    DISK_FULL = 22
    PEERS_LOST = 23

    @property
    def reason(self) -> Reason:
        """The reason a user reads."""
        return Reason["SUCCEEDED" if self is ExitCode.SUCCEEDED else self.name]


class JobIdentity(Model):
    """Whose run this is."""

    namespace: str
    name: str
    uid: str


class AdapterLocation(Model):
    """An adapter that a FineTuneJob published."""

    uri: Annotated[str, Field(pattern=r"^s3://[^/].*$")]
    """``s3://bucket/prefix/``."""
    digest: str
    """``sha256:…`` that its manifest must have."""
    job: str
    """Name of the FineTuneJob."""
    weight: float = 1.0
    """Among those that are combined."""

    rules = PLAIN


class Combination(Model):
    """How several adapters become one."""

    method: Literal["linear", "cat", "svd", "ties", "dare_linear", "dare_ties"]
    density: Annotated[float, Field(gt=0, le=1)] = 0.5


class ModelLocation(Model):
    """The model to load, after ``job://`` was resolved: a base, and what belongs on it."""

    uri: Annotated[str, Field(pattern=r"^(hf|s3)://[^/].*$")]
    """``hf://org/name`` or ``s3://bucket/prefix/``."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    origin: str | None = None
    """The URI that the user wrote, where it was another (``job://…``)."""
    digest: str | None = None
    """``sha256:…`` that the manifest of a ``job://`` result must have."""
    version: str | None = None
    """Of the bytes that the adapters below were made for, where no manifest vouches for the base."""
    stack: tuple[AdapterLocation, ...] = ()
    """Adapters that are part of the model: merged into it one after the other, the first one first."""
    adapters: tuple[AdapterLocation, ...] = ()
    """The adapter to go on with, or several that become one first. None: a new one, or none at all."""
    combination: Combination | None = None
    """What several adapters become one by."""
    licences: tuple[str, ...] | None = None
    """Those that the base may have, as model cards name them. None: any."""

    rules = (
        *PLAIN,
        Rule(
            "combination",
            "has(self.combination) == (has(self.adapters) && size(self.adapters) > 1)",
            "several adapters need a combination, and only they",
            lambda m: (m.combination is not None) == (len(m.adapters) > 1),
        ),
    )


class RunConfig(Model):
    """The run file: everything a trainer needs to know, with all defaults filled in. Holds no secret.

    S3 and hub credentials come by environment from Secrets.
    """

    contract: int = CONTRACT_VERSION
    job: JobIdentity
    attempt: int
    task: str
    model: ModelLocation
    storage: Storage
    data: Data
    method: Method
    training: Training
    evaluation: Evaluation
    checkpoint: Checkpoint = Checkpoint()
    on_divergence: Literal["Fail", "Rewind"] = "Fail"
    """``runPolicy.onDivergence``."""
    merge_adapter: bool = False
    """``output.mergeAdapter``."""
    processes: Annotated[int, Field(ge=1)] = 1
    """That train together in this pod, one for each GPU."""
    micro_batch_divisor: Annotated[int, Field(ge=1, le=2**16)] = 1
    """Lets so many times less through the model at a time than would be chosen: memory ran out in an attempt before.
    What a step learns is the same."""
    output_prefix: Annotated[str, Field(pattern=r"^s3://[^/]+/([^/]*[^/.][^/]*/|/)*$")]
    """Where the job's checkpoints and its result lie: ``s3://…/``, common to its attempts and to nobody else."""

    @classmethod
    def of(
        cls,
        spec: FineTuneJobSpec,
        job: JobIdentity,
        attempt: int,
        model: ModelLocation,
        prefix: str,
        micro_batch_divisor: int = 1,
    ) -> Self:
        """The run file of one attempt of a job."""
        return cls(
            job=job,
            attempt=attempt,
            task=spec.task,
            model=model,
            storage=spec.storage,
            data=spec.data,
            method=spec.method,
            training=spec.training,
            evaluation=spec.evaluation,
            checkpoint=spec.checkpoint,
            on_divergence=spec.run_policy.on_divergence,
            merge_adapter=spec.output.merge_adapter,
            processes=max(1, spec.resources.gpus_per_node),
            micro_batch_divisor=micro_batch_divisor,
            output_prefix=prefix,
        )


class RunError(StatusModel):
    """What went wrong, in a user's words."""

    reason: Reason
    message: str
    """Cause and mend, one or two sentences, no traceback."""


class RunResult(StatusModel):
    """The termination message: what the run came to. At most 4,096 bytes of JSON."""

    contract: int = CONTRACT_VERSION
    outcome: Literal["Succeeded", "Failed"]
    metrics: tuple[Metric, ...] = ()
    result: Result | None = None
    checked: Checked | None = None
    """In place of a result, where it was only checked."""
    usage: Usage | None = None
    error: RunError | None = None

    def termination_message(self) -> str:
        """JSON that fits: where it would not, the error's message is cut, then metrics are left out from the end, then
        what an adapter belongs on, without which no job can start from it."""
        kept = self
        while len(text := kept.to_json().encode()) > TERMINATION_LOG_LIMIT:
            surplus = len(text) - TERMINATION_LOG_LIMIT
            if kept.error and len(kept.error.message) > 200:
                short = kept.error.message[: max(199, len(kept.error.message) - surplus - 1)] + "…"
                kept = kept.model_copy(update={"error": kept.error.model_copy(update={"message": short})})
            elif kept.metrics:
                kept = kept.model_copy(update={"metrics": kept.metrics[:-1]})
            elif kept.result and kept.result.built_on:
                kept = kept.model_copy(update={"result": kept.result.model_copy(update={"built_on": None})})
            else:
                raise ValueError(f"a result of {len(text)} bytes does not fit a termination message")
        return text.decode()


class ReportMetric(StatusModel):
    """One value of a report. Kubeflow's format carries values as text."""

    name: Annotated[str, Field(max_length=128)]
    value: Annotated[str, Field(max_length=128)]


class TrainerStatus(StatusModel):
    """Progress as Kubeflow Trainer's status server takes it."""

    last_updated_time: Annotated[str, Field(max_length=64)]
    """ISO 8601."""
    progress_percentage: Annotated[int | None, Field(ge=0, le=100)] = None
    estimated_remaining_seconds: Annotated[int | None, Field(ge=0, le=10**9)] = None
    metrics: Annotated[tuple[ReportMetric, ...], Field(max_length=64)] = ()

    def metric(self, name: str) -> str | None:
        """The value of a metric, if it was reported."""
        return next((m.value for m in self.metrics if m.name == name), None)

    def number(self, name: str) -> float | None:
        """The value of a metric as a finite number, if it is one."""
        try:
            value = float(self.metric(name) or "")
        except ValueError:
            return None
        return value if abs(value) < float("inf") else None


class Report(StatusModel):
    """The body of a POST to the reports endpoint: ``{"trainerStatus": {…}}``."""

    trainer_status: TrainerStatus


class ReportedMetric:
    """Names of metrics in a report that the operator reads. The first five are those of transformers' own callback."""

    LOSS = "loss"
    LEARNING_RATE = "learning_rate"
    CURRENT_STEP = "current_step"
    TOTAL_STEPS = "total_steps"
    CURRENT_EPOCH = "current_epoch"
    TOKENS_PER_SECOND = "tokens_per_second"
    CHECKPOINT = "checkpoint"
    """CHECKPOINT_NAME of the newest complete one. A whole URI may be longer than a value."""
    RESUMED_AT = "resumed_at_step"
    PHASE = "phase"
    """One of REPORTED_PHASES: where our trainer is; other trainers do not send it."""


REPORTED_PHASES = (Phase.RUNNING, Phase.EVALUATING, Phase.PUBLISHING)
