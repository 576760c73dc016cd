"""What the operator may do: the table that the chart's rules are generated from, and that the tests hold it to."""

from dataclasses import dataclass
from enum import Enum

from finetune_api import names


class Scope(Enum):
    """Where a permission holds."""

    SERVED = "served"
    """In every namespace that is served: a ClusterRole, or a Role in each of ``watch_namespaces``."""
    CLUSTER = "cluster"
    """For a resource without a namespace: a ClusterRole."""
    OWN = "own"
    """In the operator's own namespace alone: a Role."""


@dataclass(frozen=True, slots=True)
class Permission:
    """One rule."""

    group: str
    """API group; empty for the core group."""
    resource: str
    verbs: tuple[str, ...]
    scope: Scope
    why: str
    subresource: str = ""
    named_by: str = ""
    """The setting (an attribute of Settings) that holds the one name the rule is restricted to."""

    @property
    def full_resource(self) -> str:
        """As rules write it: ``finetunejobs/status``."""
        return f"{self.resource}/{self.subresource}" if self.subresource else self.resource


PERMISSIONS: tuple[Permission, ...] = (
    Permission(
        names.GROUP,
        names.PLURAL,
        ("get", "list", "watch"),
        Scope.SERVED,
        "Read the FineTuneJobs to work on; get confirms one before anything is done that cannot be undone.",
    ),
    Permission(
        names.GROUP,
        names.PLURAL,
        ("patch",),
        Scope.SERVED,
        "Write the status. The spec is never written.",
        subresource="status",
    ),
    Permission(
        "batch",
        "jobs",
        ("get", "list", "watch", "create", "delete"),
        Scope.SERVED,
        "Create the Job of a FineTuneJob and follow it; delete it to suspend, cancel or end the FineTuneJob. Jobs are "
        "never changed.",
    ),
    Permission(
        "",
        "services",
        ("get", "create"),
        Scope.SERVED,
        "Create the headless Service by which the pods of a FineTuneJob on several nodes find one another; get tells "
        "whose a Service of the same name is.",
    ),
    Permission(
        names.GROUP,
        names.PROFILE_PLURAL,
        ("get", "list", "watch"),
        Scope.CLUSTER,
        "Read the FineTuneProfiles; get confirms one before a FineTuneJob is refused.",
    ),
    Permission("", "pods", ("list", "watch"), Scope.SERVED, "Follow training pods and read how they ended."),
    Permission(
        "",
        "events",
        ("create", "list"),
        Scope.SERVED,
        "Tell what happens in `kubectl describe`; read why a Job makes no pod.",
    ),
    Permission(
        "authentication.k8s.io",
        "tokenreviews",
        ("create",),
        Scope.CLUSTER,
        "Know which pod a progress report comes from.",
    ),
    Permission(
        "coordination.k8s.io",
        "leases",
        ("create",),
        Scope.OWN,
        "Create the Lease of the leader election. A rule on create cannot name an object.",
    ),
    Permission(
        "coordination.k8s.io",
        "leases",
        ("get", "update"),
        Scope.OWN,
        "Take and renew the Lease of the leader election.",
        named_by="lease_name",
    ),
    Permission(
        "",
        "secrets",
        ("get", "update"),
        Scope.OWN,
        "Keep the certificate of the reports endpoint, in the one Secret the operator may read.",
        named_by="reports_secret",
    ),
)
