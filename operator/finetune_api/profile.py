"""``FineTuneProfile.spec``: what a platform team lets FineTuneJobs use, and what their pods get of it."""

from typing import Annotated, Literal

from pydantic import Field

from finetune_api import environment
from finetune_api.base import Model, Rule
from finetune_api.spec.fields import Duration, Image, ObjectName, Quantity, unique

LabelKey = Annotated[
    str, Field(max_length=317, pattern=r"^([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?$")
]
LabelValue = Annotated[str, Field(max_length=63, pattern=r"^([A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?)?$")]
NodeSelector = Annotated[dict[str, LabelValue], Field(max_length=16)]
"""Labels; of their keys the API server judges as it takes the Job."""
Place = Annotated[str, Field(min_length=5, max_length=1024)]
S3Prefix = Annotated[Place, Field(pattern=r"^s3://[^/]+(/.*)?$")]
Endpoint = Annotated[Place, Field(pattern=r"^https?://[^/]+.*$")]
ModelPrefix = Annotated[Place, Field(pattern=r"^(hf|s3)://.*$")]
Licence = Annotated[str, Field(min_length=1, max_length=64)]
AllowedImage = Annotated[str, Field(min_length=1, max_length=512)]
Namespace = Annotated[str, Field(max_length=63, pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$")]
GpuName = Annotated[str, Field(max_length=63, pattern=r"^[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?$")]


class TrainerPods(Model):
    """The program of the training pods."""

    image: Image | None = None
    """Image of jobs that name none (spec.trainer.image). It must be of the operator's release. Absent: the operator's
    setting."""
    pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    """imagePullPolicy. Absent: the operator's setting."""
    pull_secrets: Annotated[tuple[ObjectName, ...], Field(max_length=8)] = ()
    """Secrets of the FineTuneJob's namespace to pull images with, beside those of its `default` ServiceAccount."""


class Toleration(Model):
    """A taint that training pods bear, as Kubernetes writes it."""

    key: LabelKey | None = None
    """Key of the taint. Absent, with the operator Exists: every one."""
    operator: Literal["Equal", "Exists"] | None = None
    """How value counts. Absent: Equal."""
    value: LabelValue | None = None
    """Value of the taint."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Effect of the taint. Absent: all."""

    rules = (
        Rule(
            "value",
            "!has(self.value) || !has(self.operator) || self.operator == 'Equal'",
            "value is for operator Equal only",
            lambda t: t.value is None or t.operator in (None, "Equal"),
        ),
        Rule(
            "key",
            "has(self.key) || (has(self.operator) && self.operator == 'Exists')",
            "give a key, or operator Exists for every taint",
            lambda t: t.key is not None or t.operator == "Exists",
        ),
    )


class GpuKind(Model):
    """One kind of GPU."""

    name: GpuName
    """Name, as resources.gpuType gives it: `a100-80gb`."""
    node_selector: NodeSelector
    """Labels of the nodes that have it: `{nvidia.com/gpu.product: NVIDIA-A100-SXM4-80GB}`."""
    memory_gib: Annotated[float, Field(gt=0, le=4096)] | None = Field(default=None, alias="memoryGiB")
    """Memory of one GPU, GiB."""
    price_per_hour: Annotated[float, Field(ge=0, le=1_000_000)] | None = None
    """Price of one GPU for an hour, in currency. With it status.usage.cost tells what a job cost."""


class Limits(Model):
    """The most that one FineTuneJob may ask for. Absent fields limit nothing."""

    gpus: Annotated[int, Field(ge=0, le=16384)] | None = None
    """GPUs in all: nodes times gpusPerNode. 0: training on CPUs only."""
    nodes: Annotated[int, Field(ge=1, le=1024)] | None = None
    """resources.nodes."""
    cpu: Quantity | None = None
    """resources.cpu, of one pod."""
    memory: Quantity | None = None
    """resources.memory, of one pod; also what a job gets that asks for none, where defaults.memory is absent."""
    max_retries: Annotated[int, Field(ge=0, le=10)] | None = None
    """runPolicy.maxRetries: more count as this many."""
    deadline: Duration | None = None
    """runPolicy.deadline; also that of a job that gives none."""


class Allowed(Model):
    """What FineTuneJobs may name. Absent fields allow everything, but for images."""

    s3_prefixes: Annotated[tuple[S3Prefix, ...], Field(max_length=64)] | None = None
    """Buckets and prefixes for data, models and output: `s3://team-a/`, `s3://shared/{namespace}/` with the namespace
    of the FineTuneJob in it. What lies below is allowed, and nothing that only begins alike."""
    s3_endpoints: Annotated[tuple[Endpoint, ...], Field(max_length=16)] | None = None
    """storage.endpointUrl, each as a whole; `https://s3.amazonaws.com` also for jobs that give none. Absent: every
    server, so that s3Prefixes name buckets of any."""
    images: Annotated[tuple[AllowedImage, ...], Field(max_length=64)] | None = None
    """spec.trainer.image: a repository with any tag (`registry.example.com/team-a/trainer`), one with a tag or digest,
    or all below a path that ends in `/`. Absent: trainer.image only."""
    models: Annotated[tuple[ModelPrefix, ...], Field(max_length=64)] | None = None
    """Where models may come from: `hf://Qwen/` (an organisation), `hf://Qwen/Qwen2.5-7B-Instruct`, `s3://models/`; `hf://`
    is all of a hub. What a `job://` names counts by the base that it was built on."""
    licences: Annotated[tuple[Licence, ...], Field(max_length=64)] | None = None
    """Licences of models, as their model cards name them: `apache-2.0`, `mit`, `llama3.1`; what a card calls `other`,
    by its `license_name`. Looked at before a model is downloaded, and not for whole models that a FineTuneJob
    published."""
    priority_classes: Annotated[tuple[ObjectName, ...], Field(max_length=16)] | None = None
    """scheduling.priorityClass."""


class Variable(Model):
    """One environment variable."""

    name: Annotated[str, Field(max_length=128, pattern=environment.NAME)]
    """Name."""
    value: Annotated[str, Field(max_length=4096)]
    """Value, as it is: `$(NAME)` is not replaced."""

    rules = (
        Rule(
            "name",
            f"!self.name.matches('{environment.FORBIDDEN}')",
            "name must not be one that changes what runs, whom it trusts or who it is: LD_*, PYTHON*, PATH, AWS_*, "
            "HF_*, SSL_*, NVIDIA_*, proxies and the like",
            lambda v: not environment.forbidden(v.name),
        ),
    )


class Defaults(Model):
    """What a FineTuneJob has that gives nothing itself."""

    gpu_type: GpuName | None = None
    """resources.gpuType, of jobs that ask for GPUs."""
    cpu: Quantity | None = None
    """resources.cpu."""
    memory: Quantity | None = None
    """resources.memory."""
    priority_class: ObjectName | None = None
    """scheduling.priorityClass."""
    deadline: Duration | None = None
    """runPolicy.deadline."""
    stall_timeout: Duration | None = None
    """runPolicy.stallTimeout."""


class FineTuneProfileSpec(Model):
    """What FineTuneJobs may use, and what their pods get."""

    namespaces: Annotated[tuple[Namespace, ...], Field(min_length=1, max_length=256)] | None = None
    """Namespaces whose FineTuneJobs may have this profile. Absent: all."""
    trainer: TrainerPods = TrainerPods()
    """The program of the training pods."""
    node_selector: NodeSelector | None = None
    """Labels that the nodes of training pods must have."""
    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=16)] = ()
    """Taints that training pods bear."""
    gpus: Annotated[tuple[GpuKind, ...], Field(max_length=32)] = ()
    """Kinds of GPU. With any, a job that asks for GPUs has one of them."""
    currency: Annotated[str, Field(max_length=3, pattern=r"^[A-Z]{3}$")] = "USD"
    """Currency of the prices."""
    limits: Limits = Limits()
    """The most that one FineTuneJob may ask for."""
    allowed: Allowed = Allowed()
    """What FineTuneJobs may name."""
    queue: ObjectName | None = None
    """Kueue LocalQueue of the FineTuneJobs; they may name no other one."""
    environment: Annotated[tuple[Variable, ...], Field(max_length=32)] = ()
    """Further environment variables of the training pods."""
    defaults: Defaults = Defaults()
    """What a FineTuneJob has that gives nothing itself."""

    rules = (
        unique("gpus", "name", "gpus must not name a kind twice"),
        unique("environment", "name", "environment must not name a variable twice"),
        Rule(
            "defaults",
            "!has(self.defaults.gpuType) || self.gpus.exists(g, g.name == self.defaults.gpuType)",
            "defaults.gpuType must be the name of one of gpus",
            lambda p: p.defaults.gpu_type is None or p.defaults.gpu_type in {kind.name for kind in p.gpus},
        ),
    )
