"""``spec.resources``, ``spec.scheduling``, ``spec.runPolicy`` and ``spec.tracking``: how the pods of a job run."""

from typing import Annotated, Literal

from pydantic import Field

from finetune_api.base import Model, Mutable, Rule
from finetune_api.spec.fields import Duration, Image, ObjectName, Quantity, SecretName


class Resources(Model):
    """How many pods train, and what each of them asks for."""

    nodes: Annotated[int, Field(ge=1, le=1024)] = 1
    """Pods, which share the work of each step like the GPUs of one pod. Where one fails all of them end, and the next
    attempt goes on from the newest checkpoint."""
    gpus_per_node: Annotated[int, Field(ge=0, le=16)] = 1
    """GPUs (`nvidia.com/gpu`) a pod, which share the work of each step; 0 trains on the CPU."""
    gpu_type: Annotated[str, Field(max_length=63, pattern=r"^[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?$")] | None = None
    """Kind of GPU, by the name that the profile gives it. Absent: the profile's defaults.gpuType."""
    cpu: Quantity | None = None
    """CPU requested, as a Kubernetes quantity (`2`, `500m`). Absent: 1, or one for each GPU."""
    memory: Quantity | None = None
    """Memory requested and its limit, as a Kubernetes quantity (`16Gi`). Absent: no limit."""

    rules = (
        Rule(
            "gpuType",
            "!has(self.gpuType) || self.gpusPerNode > 0",
            "resources.gpuType is for resources.gpusPerNode 1 and more",
            lambda r: r.gpu_type is None or r.gpus_per_node > 0,
        ),
    )


Argument = Annotated[str, Field(max_length=4096)]


class OwnTrainer(Model):
    """A training program of a team's own, in place of this project's. It gets the same pod: run file, credentials,
    scratch volume, and the variables by which transformers' Trainer reports its progress without a change to it."""

    image: Image
    """Image, which the profile must allow: `registry.example.com/team-a/trainer:1`."""
    command: Annotated[tuple[Argument, ...], Field(min_length=1, max_length=64)] | None = None
    """Program and arguments, each as it is: no shell reads them, and `$(NAME)` is not replaced. Absent: the image's
    own."""


class Scheduling(Model):
    """How the pod gets its place."""

    queue: Annotated[str, Field(max_length=63, pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")] | None = None
    """Kueue LocalQueue that the Job waits in: it is created suspended, and Kueue lets it go."""
    priority_class: ObjectName | None = None
    """PriorityClass of the training pod."""


class RunPolicy(Model):
    """How a run may fail, wait and end."""

    max_retries: Annotated[int, Field(ge=0, le=10)] = 2
    """Further attempts after failures that another attempt can mend. A user's fault is never retried; an eviction, a
    lost node or a suspension does not count."""
    on_out_of_memory: Literal["Fail", "HalveMicroBatch"] = "HalveMicroBatch"
    """What to do when memory runs out, of a GPU or of the container. `HalveMicroBatch`: another attempt, which counts,
    lets half as much through the model at a time; batchSize, and what a step learns, stay. `Fail`: end."""
    on_divergence: Literal["Fail", "Rewind"] = "Fail"
    """What to do when the loss is no number any more, or rises and stays there. `Fail`: end. `Rewind`: go back to the
    last checkpoint, and on with half the learning rate; at most three times."""
    stall_timeout: Duration | None = None
    """Longest time in which a running pod may report no progress (`30m`); then the attempt is stopped, and counts as
    failed. It begins with the start of the container: leave room for the download of the model. Absent: for ever."""
    deadline: Duration | None = None
    """Longest time for the whole job (`4h`), from status.startTime, waiting and suspension included. Absent: none."""
    ttl_after_finished: Annotated[Duration | None, Mutable()] = None
    """Time after which the Jobs and pods of a finished job are deleted; the FineTuneJob itself stays. Absent: with it
    alone."""


class Tracker(Model):
    """One experiment tracker."""

    type: Literal["mlflow", "wandb", "tensorboard"]
    """Which one."""
    credentials: SecretName | None = None
    """Secret with the tracker's own environment variables."""
    project: Annotated[str, Field(max_length=128)] | None = None
    """Project or experiment."""
