"""The chart's values, from which values.yaml, its schema and its table are made."""

from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.alias_generators import to_camel

from finetune_operator.settings import Settings

Labels = dict[str, str]
PullPolicy = Literal["Always", "IfNotPresent", "Never"]

WIRED = frozenset(
    {
        "trainer_image",
        "image_pull_policy",
        "namespace",
        "watch_namespaces",
        "identity",
        "reports_url",
        "reports_bind",
        "reports_port",
        "reports_secret",
        "advertise_address",
        "health_bind",
        "health_port",
        "metrics",
        "metrics_bind",
        "metrics_port",
        "leader_election",
        "lease_name",
    }
)
"""Settings of the operator that follow from other values or from the chart's own objects."""


class Section(BaseModel):
    """Base: unknown values are refused, names are camelCase, docstrings are descriptions."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True, use_attribute_docstrings=True
    )


def _settings() -> type[Section]:
    """A section with every setting that an administrator may choose."""
    chosen: dict[str, Any] = {
        setting.name: (_limited(type(setting.default), setting.metadata), setting.default)
        for setting in fields(Settings)
        if setting.name not in WIRED
    }
    return create_model("OperatorSettings", __base__=Section, **chosen)


def _limited(kind: type, metadata: Any) -> Any:
    return Annotated[kind, Field(ge=metadata["least"], description=metadata["about"])]


if TYPE_CHECKING:
    OperatorSettings = Section
else:
    OperatorSettings = _settings()


class Image(Section):
    """A container image."""

    repository: Annotated[str, Field(min_length=1)]
    """Repository, with the host of your registry."""
    tag: str = ""
    """Tag. Empty: the chart's appVersion."""
    digest: Annotated[str, Field(pattern=r"^(sha256:[0-9a-f]{64})?$")] = ""
    """Digest; if given, it counts instead of the tag."""
    pull_policy: PullPolicy = "IfNotPresent"
    """imagePullPolicy."""


class OperatorImage(Image):
    """The operator's own image."""

    repository: Annotated[str, Field(min_length=1)] = "finetune-operator"
    """Repository, with the host of your registry."""


class TrainerImage(Image):
    """The image of training pods. Operator and trainer must be of one release."""

    repository: Annotated[str, Field(min_length=1)] = "finetune-trainer"
    """Repository, with the host of your registry."""


class Trainer(Section):
    """Training pods."""

    image: TrainerImage = TrainerImage()
    """The image of training pods."""


class DisruptionBudget(Section):
    """PodDisruptionBudget of the operator."""

    max_unavailable: Annotated[int, Field(ge=1)] = 1
    """Replicas that a node's maintenance may take away at a time. Less than 1 would block it for ever."""


class PodMonitor(Section):
    """A PodMonitor of the Prometheus operator."""

    enabled: bool = False
    """Create it. The cluster must have the definition `monitoring.coreos.com/v1` PodMonitor."""
    labels: Labels = {}
    """Further labels, for a Prometheus that selects PodMonitors by them."""
    interval: Annotated[str, Field(pattern=r"^[0-9]+(ms|s|m|h)$")] = "30s"
    """How often Prometheus asks."""


class Metrics(Section):
    """Metrics for Prometheus."""

    enabled: bool = True
    """Serve them, at /metrics of the port `metrics`."""
    annotations: bool = True
    """Give the operator's pods the annotations `prometheus.io/scrape`, `port` and `path`."""
    pod_monitor: PodMonitor = PodMonitor()
    """A PodMonitor of the Prometheus operator."""


class NetworkPolicy(Section):
    """A NetworkPolicy that says who may reach the operator's pods."""

    enabled: bool = False
    """Create it: any pod may report, anybody may ask the probes, and metrics are for `metricsFrom`."""
    metrics_from: tuple[dict[str, Any], ...] = ()
    """Who may read the metrics of all tenants' jobs, as in `ingress.from` of a NetworkPolicy. Empty: nobody."""


class Crds(Section):
    """The CustomResourceDefinitions."""

    install: bool = True
    """Install and upgrade them with the chart. false: apply the files of crds/ yourself."""
    keep: bool = True
    """Leave them when the chart is uninstalled: deleting them would delete every FineTuneJob and FineTuneProfile."""


class Values(Section):
    """Values of the chart."""

    replicas: Annotated[int, Field(ge=1)] = 2
    """Replicas. One works, the others stand by and take its place through the Lease."""
    image: OperatorImage = OperatorImage()
    """The operator's own image."""
    image_pull_secrets: tuple[Labels, ...] = ()
    """imagePullSecrets of the operator's pods: `[{name: my-registry}]`."""
    trainer: Trainer = Trainer()
    """Training pods."""
    watch_namespaces: tuple[Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", max_length=63)], ...] = ()
    """Namespaces whose FineTuneJobs are served. Empty: all."""
    settings: OperatorSettings = OperatorSettings()
    """Settings of the operator; durations are seconds."""
    resources: dict[Literal["requests", "limits"], dict[str, str | int]] = {
        "requests": {"cpu": "50m", "memory": "128Mi"},
        "limits": {"memory": "512Mi"},
    }
    """Resources of the operator's container."""
    node_selector: Labels = {}
    """nodeSelector of the operator's pods."""
    tolerations: tuple[dict[str, Any], ...] = ()
    """Tolerations of the operator's pods."""
    affinity: dict[str, Any] = {}
    """Affinity of the operator's pods. Whatever it says, replicas are spread over nodes where possible."""
    priority_class_name: str = ""
    """PriorityClass of the operator's pods."""
    pod_annotations: Labels = {}
    """Further annotations of the operator's pods."""
    pod_labels: Labels = {}
    """Further labels of the operator's pods."""
    pod_disruption_budget: DisruptionBudget = DisruptionBudget()
    """PodDisruptionBudget of the operator."""
    metrics: Metrics = Metrics()
    """Metrics for Prometheus."""
    network_policy: NetworkPolicy = NetworkPolicy()
    """A NetworkPolicy that says who may reach the operator's pods."""
    crds: Crds = Crds()
    """The CustomResourceDefinitions."""
