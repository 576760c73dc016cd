"""Phases, condition types and reasons: each with the sentence a user reads."""

from dataclasses import dataclass
from enum import StrEnum


class Phase(StrEnum):
    """Where a FineTuneJob is. The last three are terminal: nothing leaves them."""

    PENDING = "Pending"
    VALIDATING = "Validating"
    QUEUED = "Queued"
    STARTING = "Starting"
    RUNNING = "Running"
    EVALUATING = "Evaluating"
    PUBLISHING = "Publishing"
    SUSPENDED = "Suspended"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    CANCELLED = "Cancelled"

    @property
    def terminal(self) -> bool:
        return self in (Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED)


class ConditionType(StrEnum):
    """Condition types. ``Ready``, ``Reconciling`` and ``Stalled`` follow kstatus, the others tell the chain."""

    READY = "Ready"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"
    VALIDATED = "Validated"
    QUOTA_RESERVED = "QuotaReserved"
    TRAINED = "Trained"
    EVALUATED = "Evaluated"
    PUBLISHED = "Published"


class Fault(StrEnum):
    """Whose fault a failure is, which decides who must act."""

    USER = "user"
    PLATFORM = "platform"
    NOBODY = "nobody"


class Retry(StrEnum):
    """What follows from an attempt that ended for a reason."""

    NEVER = "never"
    """No further attempt: it would end the same."""
    COUNTED = "counted"
    """A further attempt, while ``spec.runPolicy.maxRetries`` lasts."""
    FREE = "free"
    """A further attempt, however many there were: it was nobody's fault, or somebody asked for it."""
    SMALLER = "smaller"
    """Counted; the further attempt lets half as much through the model at a time."""


class Reason(StrEnum):
    """Why a FineTuneJob is in its phase: ``status.conditions[].reason`` and the reason of its Events."""

    # The way of a job that goes well.
    ACCEPTED = "Accepted"
    CHECKING = "Checking"
    CHECKED = "Checked"
    JOB_CREATED = "JobCreated"
    POD_STARTING = "PodStarting"
    TRAINING = "Training"
    EVALUATING = "Evaluating"
    PUBLISHING = "Publishing"
    SUCCEEDED = "Succeeded"
    RETRYING = "Retrying"

    # Waiting, or asked to.
    QUEUED = "Queued"
    SUSPENDED = "Suspended"
    STOPPING = "Stopping"
    CANCELLED = "Cancelled"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    STALLED = "Stalled"

    # Refused before any pod exists.
    INVALID_SPEC = "InvalidSpec"
    PROFILE_NOT_FOUND = "ProfileNotFound"
    PROFILE_INVALID = "ProfileInvalid"
    NOT_ALLOWED = "NotAllowed"
    MODEL_JOB_NOT_FOUND = "ModelJobNotFound"
    MODEL_JOB_NOT_FINISHED = "ModelJobNotFinished"
    MODEL_JOB_FAILED = "ModelJobFailed"
    MODEL_JOB_NOT_A_MODEL = "ModelJobNotAModel"
    MODEL_JOB_UNSUITABLE = "ModelJobUnsuitable"
    MODEL_JOBS_DIFFER = "ModelJobsDiffer"
    NAME_CONFLICT = "NameConflict"
    JOB_REFUSED = "JobRefused"

    # Said by the trainer, through its exit code and termination message.
    CONFIGURATION_INVALID = "ConfigurationInvalid"
    DATA_INVALID = "DataInvalid"
    MODEL_INVALID = "ModelInvalid"
    CONTRACT_MISMATCH = "ContractMismatch"
    DIVERGED = "Diverged"
    STORAGE_REFUSED = "StorageRefused"
    STORAGE_UNAVAILABLE = "StorageUnavailable"
    OUT_OF_MEMORY = "OutOfMemory"
    DISK_FULL = "DiskFull"
    PREEMPTED = "Preempted"
    PEERS_LOST = "PeersLost"

    # Seen on the Job and its pods.
    TRAINER_CRASHED = "TrainerCrashed"
    TRAINER_KILLED = "TrainerKilled"
    RESULT_MISSING = "ResultMissing"
    RESULT_LOST = "ResultLost"
    JOB_DELETED = "JobDeleted"
    DISRUPTED = "Disrupted"
    NODE_LOST = "NodeLost"
    QUOTA_EXCEEDED = "QuotaExceeded"
    POD_REFUSED = "PodRefused"
    IMAGE_PULL_FAILED = "ImagePullFailed"
    CONTAINER_CONFIG_ERROR = "ContainerConfigError"
    UNSCHEDULABLE = "Unschedulable"


@dataclass(frozen=True)
class Meaning:
    """What a reason says to a user.

    ``sentence`` names the cause in general (the status message adds the case at hand), ``next_step`` the mend.
    """

    sentence: str
    next_step: str
    fault: Fault = Fault.NOBODY


_AGAIN = "delete the FineTuneJob and apply the corrected one"
_SAME_AGAIN = "delete the FineTuneJob and apply it again"
_ONE_RELEASE = f"install operator and trainer image of one release, then {_SAME_AGAIN}"
_BY_ITSELF = "nothing to do: the next attempt goes on from the newest checkpoint"

MEANINGS: dict[Reason, Meaning] = {
    Reason.ACCEPTED: Meaning("The spec is valid and the job is planned.", "nothing to do"),
    Reason.CHECKING: Meaning(
        "A pod without a GPU checks data, model and S3 before anything is trained (spec.preflight).", "nothing to do"
    ),
    Reason.CHECKED: Meaning("The check found nothing that would keep the job from training.", "nothing to do"),
    Reason.JOB_CREATED: Meaning("The Job of the attempt exists; its pod is not running yet.", "nothing to do"),
    Reason.POD_STARTING: Meaning("The training pod is starting.", "nothing to do"),
    Reason.TRAINING: Meaning("The training pod is running.", "nothing to do"),
    Reason.EVALUATING: Meaning("The model is being evaluated on the held-out set.", "nothing to do"),
    Reason.PUBLISHING: Meaning("The result is being written to spec.output.uri.", "nothing to do"),
    Reason.SUCCEEDED: Meaning("The result is published and lies where status.result says.", "use it"),
    Reason.RETRYING: Meaning(
        "An attempt failed for a reason that another one can mend, and another one begins.",
        "nothing to do while spec.runPolicy.maxRetries lasts",
    ),
    Reason.QUEUED: Meaning(
        "The Job is suspended by whoever hands out quota (Kueue): it waits for its turn.",
        "nothing to do; `kubectl get workloads` tells of the queue",
    ),
    Reason.SUSPENDED: Meaning(
        "spec.suspend is true: nothing runs, and the newest checkpoint is kept.",
        "set spec.suspend to false to go on",
    ),
    Reason.STOPPING: Meaning(
        "The Job is being stopped; its pods save a checkpoint and end.",
        "nothing to do; of a pod whose node is lost, delete the node, or the pod with --force",
    ),
    Reason.CANCELLED: Meaning("spec.cancel is true: the job is ended for good.", f"to run it after all, {_SAME_AGAIN}"),
    Reason.DEADLINE_EXCEEDED: Meaning(
        "The job took longer than spec.runPolicy.deadline.",
        f"raise spec.runPolicy.deadline, or train less: {_AGAIN}",
        Fault.USER,
    ),
    Reason.STALLED: Meaning(
        "The trainer made no progress for as long as spec.runPolicy.stallTimeout.",
        f"read the pod's log; after the mend, or with a longer spec.runPolicy.stallTimeout, {_SAME_AGAIN}",
        Fault.PLATFORM,
    ),
    Reason.INVALID_SPEC: Meaning(
        "The spec breaks a rule that the API server could not check, or was applied past it.",
        _AGAIN,
        Fault.USER,
    ),
    Reason.PROFILE_NOT_FOUND: Meaning(
        "There is no FineTuneProfile of the name that spec.profile gives.",
        f"correct the name, or ask the platform team for the profile, then {_AGAIN}",
        Fault.USER,
    ),
    Reason.PROFILE_INVALID: Meaning(
        "The FineTuneProfile breaks a rule of this release: another release's definition took it.",
        f"correct the profile (the message names the field), then {_SAME_AGAIN}",
        Fault.PLATFORM,
    ),
    Reason.NOT_ALLOWED: Meaning(
        "The spec asks for something that its FineTuneProfile does not allow, or that needs a profile.",
        f"ask for what the profile allows, or the platform team for more, then {_AGAIN}",
        Fault.USER,
    ),
    Reason.MODEL_JOB_NOT_FOUND: Meaning(
        "spec.model names a job:// that does not exist in this namespace, or the job itself.",
        f"correct the name or create that job first, then {_AGAIN}",
        Fault.USER,
    ),
    Reason.MODEL_JOB_NOT_FINISHED: Meaning(
        "spec.model names a job:// that has not finished.",
        "wait until its phase is Succeeded, then delete this FineTuneJob and apply it again",
        Fault.USER,
    ),
    Reason.MODEL_JOB_FAILED: Meaning(
        "spec.model names a job:// that failed or was cancelled.",
        f"mend that job first, then {_AGAIN}",
        Fault.USER,
    ),
    Reason.MODEL_JOB_NOT_A_MODEL: Meaning(
        "spec.model names a job:// that published nothing to start from, or an older version that did not write down "
        "what its adapter belongs on.",
        f"run that job again, then {_SAME_AGAIN}",
        Fault.USER,
    ),
    Reason.MODEL_JOB_UNSUITABLE: Meaning(
        "What a job:// of spec.model published cannot be started from in the way that the spec asks for.",
        f"correct spec.method or name another job: {_AGAIN}",
        Fault.USER,
    ),
    Reason.MODEL_JOBS_DIFFER: Meaning(
        "The adapters of spec.model.combine do not belong on one and the same base.",
        f"name jobs that started from one model: {_AGAIN}",
        Fault.USER,
    ),
    Reason.NAME_CONFLICT: Meaning(
        "A Job of somebody else has the name that this FineTuneJob's Job would have; it is left untouched.",
        f"{_SAME_AGAIN}: its Job then gets another name",
        Fault.USER,
    ),
    Reason.JOB_REFUSED: Meaning(
        "The API server refused the Job (admission or validation).",
        f"read the message, mend the cause, then {_AGAIN}",
        Fault.PLATFORM,
    ),
    Reason.CONFIGURATION_INVALID: Meaning(
        "The trainer cannot do what the spec asks of this model.", _AGAIN, Fault.USER
    ),
    Reason.DATA_INVALID: Meaning(
        "A data file is empty, broken, of an unknown or mixed format, or too small for the split.",
        f"correct the file at the line named, then {_AGAIN}",
        Fault.USER,
    ),
    Reason.MODEL_INVALID: Meaning(
        "The model was not found, or has no safetensors weights, no tokenizer or no usable configuration.",
        f"correct spec.model, then {_AGAIN}",
        Fault.USER,
    ),
    Reason.CONTRACT_MISMATCH: Meaning(
        "The trainer image speaks another contract version than the operator.",
        _ONE_RELEASE,
        Fault.PLATFORM,
    ),
    Reason.DIVERGED: Meaning(
        "The loss became NaN or infinite, or rose and stayed there.",
        f"lower spec.training.learningRate, then {_AGAIN}",
        Fault.USER,
    ),
    Reason.STORAGE_REFUSED: Meaning(
        "S3 answered that a bucket or key does not exist or that access is denied.",
        f"correct the URI, spec.storage.credentials or the bucket's policy, then {_AGAIN}",
        Fault.USER,
    ),
    Reason.STORAGE_UNAVAILABLE: Meaning(
        "S3, or the hub of an hf:// model, could not be reached or kept failing.",
        f"check spec.storage.endpointUrl and the network from the training pod, then {_SAME_AGAIN}",
        Fault.PLATFORM,
    ),
    Reason.OUT_OF_MEMORY: Meaning(
        "The training process ran out of memory, of the GPU or of its container.",
        f"lower spec.training.microBatchSize or maxLength, or raise spec.resources.memory, then {_AGAIN}",
        Fault.USER,
    ),
    Reason.DISK_FULL: Meaning(
        "The disk that the training pod writes to (its node's ephemeral storage) has no room left.",
        f"free room on the nodes, or choose a smaller model or data set, then {_SAME_AGAIN}",
        Fault.PLATFORM,
    ),
    Reason.PREEMPTED: Meaning(
        "The training pod was asked to stop before it had finished, for one of higher priority or by somebody.",
        _BY_ITSELF,
    ),
    Reason.PEERS_LOST: Meaning(
        "A process of the training lost its connection to another one.",
        f"read the logs of all pods for the one that ended first; after the mend {_SAME_AGAIN}",
        Fault.PLATFORM,
    ),
    Reason.TRAINER_CRASHED: Meaning(
        "The trainer ended with an exit code that is not of the contract.",
        f"read the pod's log, and report it if that does not help; after the mend {_SAME_AGAIN}",
        Fault.PLATFORM,
    ),
    Reason.TRAINER_KILLED: Meaning(
        "The training process was killed by a signal.",
        f"look for the cause on the node, then {_SAME_AGAIN}, with more spec.runPolicy.maxRetries if it comes and goes",
        Fault.PLATFORM,
    ),
    Reason.RESULT_MISSING: Meaning(
        "The trainer ended well but left no readable result.",
        _ONE_RELEASE,
        Fault.PLATFORM,
    ),
    Reason.RESULT_LOST: Meaning(
        "The trainer ended well, but its pod was removed before its result was read.",
        f"nothing to do: the next attempt takes over what was published; once that failed too, {_SAME_AGAIN}",
        Fault.PLATFORM,
    ),
    Reason.JOB_DELETED: Meaning(
        "The Job of this FineTuneJob was deleted by somebody before it had finished.",
        "nothing to do: the next attempt goes on from the newest checkpoint. To stop a FineTuneJob set spec.suspend or "
        "spec.cancel",
        Fault.USER,
    ),
    Reason.DISRUPTED: Meaning("The training pod was evicted from its node or deleted.", _BY_ITSELF),
    Reason.NODE_LOST: Meaning("The node of the training pod is lost.", _BY_ITSELF),
    Reason.QUOTA_EXCEEDED: Meaning(
        "A ResourceQuota of the namespace has no room for the Job or its pod.",
        "nothing to do if others are about to end; else raise the quota or free room in it",
        Fault.PLATFORM,
    ),
    Reason.POD_REFUSED: Meaning(
        "The API server refuses the training pod (admission, Pod Security, a missing ServiceAccount).",
        f"read the message and mend the cause, and the pod starts by itself; once it was given up, {_SAME_AGAIN}",
        Fault.PLATFORM,
    ),
    Reason.IMAGE_PULL_FAILED: Meaning(
        "The node cannot pull the trainer image.",
        "push the image or correct the pull secret, and the pod starts by itself; where the operator's trainer image "
        f"setting is wrong, or it was given up, correct it, then {_SAME_AGAIN}",
        Fault.PLATFORM,
    ),
    Reason.CONTAINER_CONFIG_ERROR: Meaning(
        "The container cannot be made: the pod names a Secret or key that does not exist, or is configured wrongly.",
        "create the Secret in the FineTuneJob's namespace, and the pod starts by itself; once it was given up, "
        f"{_SAME_AGAIN}",
        Fault.USER,
    ),
    Reason.UNSCHEDULABLE: Meaning(
        "No node has room for the training pod.",
        f"wait until a node is free, or lower spec.resources (gpusPerNode: 0 trains on the CPU): {_AGAIN}",
        Fault.USER,
    ),
}

RETRIES: dict[Reason, Retry] = {
    Reason.OUT_OF_MEMORY: Retry.SMALLER,
    Reason.STORAGE_UNAVAILABLE: Retry.COUNTED,
    Reason.DISK_FULL: Retry.COUNTED,
    Reason.PEERS_LOST: Retry.COUNTED,
    Reason.TRAINER_CRASHED: Retry.COUNTED,
    Reason.TRAINER_KILLED: Retry.COUNTED,
    Reason.RESULT_LOST: Retry.COUNTED,
    Reason.STALLED: Retry.COUNTED,
    Reason.PREEMPTED: Retry.FREE,
    Reason.DISRUPTED: Retry.FREE,
    Reason.NODE_LOST: Retry.FREE,
    Reason.JOB_DELETED: Retry.FREE,
    Reason.SUSPENDED: Retry.FREE,
    Reason.CHECKED: Retry.FREE,
}
"""Whether an attempt that ended for a reason is followed by another one. For any other reason it is not."""


def retry_of(reason: Reason) -> Retry:
    """What follows from an attempt that ended for a reason."""
    return RETRIES.get(reason, Retry.NEVER)
