"""Which resources the server knows: the built-in ones as a table, custom ones from their definitions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

ALL_VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
GroupResource = tuple[str, str]


@dataclass(frozen=True)
class Resource:
    """One resource of one API version, and what of it the server treats in a way of its own."""

    group: str
    version: str
    plural: str
    kind: str
    singular: str = ""
    namespaced: bool = True
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    subresources: tuple[str, ...] = ()
    verbs: tuple[str, ...] = ALL_VERBS
    model: str = ""
    """Name of the `kubernetes` package's model that describes a built-in kind."""
    schema: dict[str, Any] | None = None
    """openAPIV3Schema of a custom resource."""
    columns: tuple[dict[str, Any], ...] = ()
    """additionalPrinterColumns of a custom resource."""
    list_kind: str = ""
    has_generation: bool = False
    """Whether changes of the specification are counted in metadata.generation."""
    returns_deleted: bool = False
    """Whether DELETE answers with the object, not with a Status."""
    stored_as: GroupResource | None = None
    """Where the objects live, when two resources show the same ones (events)."""

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def group_resource(self) -> GroupResource:
        return (self.group, self.plural)

    @property
    def storage(self) -> GroupResource:
        return self.stored_as or self.group_resource

    @property
    def is_custom(self) -> bool:
        return self.schema is not None

    @property
    def list_name(self) -> str:
        return self.list_kind or f"{self.kind}List"

    @property
    def has_status(self) -> bool:
        return "status" in self.subresources


def _builtin(group: str, version: str, plural: str, kind: str, model: str = "", **more: Any) -> Resource:
    return Resource(group, version, plural, kind, singular=kind.lower(), model=model or f"V1{kind}", **more)


_STATUS = ("status",)
_RBAC = "rbac.authorization.k8s.io"

BUILTIN: tuple[Resource, ...] = (
    _builtin("", "v1", "configmaps", "ConfigMap", short_names=("cm",)),
    _builtin("", "v1", "endpoints", "Endpoints", short_names=("ep",)),
    _builtin("", "v1", "events", "Event", "CoreV1Event", short_names=("ev",)),
    _builtin(
        "",
        "v1",
        "namespaces",
        "Namespace",
        namespaced=False,
        short_names=("ns",),
        subresources=_STATUS,
        verbs=tuple(verb for verb in ALL_VERBS if verb != "deletecollection"),
        returns_deleted=True,
    ),
    _builtin("", "v1", "nodes", "Node", namespaced=False, short_names=("no",), subresources=_STATUS),
    _builtin(
        "",
        "v1",
        "persistentvolumeclaims",
        "PersistentVolumeClaim",
        short_names=("pvc",),
        subresources=_STATUS,
        returns_deleted=True,
    ),
    _builtin(
        "",
        "v1",
        "pods",
        "Pod",
        short_names=("po",),
        categories=("all",),
        has_generation=True,
        subresources=("eviction", "log", "status"),
        returns_deleted=True,
    ),
    _builtin(
        "",
        "v1",
        "resourcequotas",
        "ResourceQuota",
        short_names=("quota",),
        subresources=_STATUS,
        returns_deleted=True,
    ),
    _builtin("", "v1", "secrets", "Secret"),
    _builtin(
        "",
        "v1",
        "serviceaccounts",
        "ServiceAccount",
        short_names=("sa",),
        subresources=("token",),
        returns_deleted=True,
    ),
    _builtin(
        "",
        "v1",
        "services",
        "Service",
        short_names=("svc",),
        categories=("all",),
        subresources=_STATUS,
        returns_deleted=True,
    ),
    _builtin(
        "apps",
        "v1",
        "deployments",
        "Deployment",
        short_names=("deploy",),
        categories=("all",),
        subresources=_STATUS,
        has_generation=True,
    ),
    _builtin("batch", "v1", "jobs", "Job", categories=("all",), subresources=_STATUS, has_generation=True),
    _builtin("coordination.k8s.io", "v1", "leases", "Lease"),
    _builtin(
        "events.k8s.io",
        "v1",
        "events",
        "Event",
        "EventsV1Event",
        short_names=("ev",),
        stored_as=("", "events"),
    ),
    _builtin(
        "policy",
        "v1",
        "poddisruptionbudgets",
        "PodDisruptionBudget",
        short_names=("pdb",),
        subresources=_STATUS,
        has_generation=True,
    ),
    _builtin(_RBAC, "v1", "clusterrolebindings", "ClusterRoleBinding", namespaced=False),
    _builtin(_RBAC, "v1", "clusterroles", "ClusterRole", namespaced=False),
    _builtin(_RBAC, "v1", "rolebindings", "RoleBinding"),
    _builtin(_RBAC, "v1", "roles", "Role"),
    _builtin(
        "apiextensions.k8s.io",
        "v1",
        "customresourcedefinitions",
        "CustomResourceDefinition",
        namespaced=False,
        short_names=("crd", "crds"),
        categories=("api-extensions",),
        subresources=_STATUS,
        has_generation=True,
    ),
    _builtin(
        "authentication.k8s.io",
        "v1",
        "selfsubjectreviews",
        "SelfSubjectReview",
        namespaced=False,
        verbs=("create",),
    ),
    _builtin("authentication.k8s.io", "v1", "tokenreviews", "TokenReview", namespaced=False, verbs=("create",)),
    _builtin(
        "authorization.k8s.io",
        "v1",
        "selfsubjectaccessreviews",
        "SelfSubjectAccessReview",
        namespaced=False,
        verbs=("create",),
    ),
)

CRDS: GroupResource = ("apiextensions.k8s.io", "customresourcedefinitions")
NAMESPACES: GroupResource = ("", "namespaces")
PODS: GroupResource = ("", "pods")
QUOTAS: GroupResource = ("", "resourcequotas")
JOBS: GroupResource = ("batch", "jobs")
SERVICE_ACCOUNTS: GroupResource = ("", "serviceaccounts")


def from_crd(crd: dict[str, Any]) -> Resource:
    """The resource that a CustomResourceDefinition (validated before) serves."""
    spec = crd["spec"]
    names = spec["names"]
    version = next(one for one in spec["versions"] if one.get("served"))
    return Resource(
        group=spec["group"],
        version=version["name"],
        plural=names["plural"],
        kind=names["kind"],
        singular=names.get("singular") or names["kind"].lower(),
        namespaced=spec["scope"] == "Namespaced",
        short_names=tuple(names.get("shortNames") or ()),
        categories=tuple(names.get("categories") or ()),
        subresources=_STATUS if "status" in (version.get("subresources") or {}) else (),
        schema=version["schema"]["openAPIV3Schema"],
        columns=tuple(version.get("additionalPrinterColumns") or ()),
        list_kind=names.get("listKind") or "",
        has_generation=True,
    )


@dataclass
class Registry:
    """The resources being served now. Built-in ones always; custom ones come and go with their CRDs."""

    _custom: dict[GroupResource, Resource] = field(default_factory=dict)
    _builtin: dict[tuple[str, str, str], Resource] = field(
        default_factory=lambda: {(r.group, r.version, r.plural): r for r in BUILTIN}
    )

    def __iter__(self) -> Iterator[Resource]:
        yield from self._builtin.values()
        yield from self._custom.values()

    def find(self, group: str, version: str, plural: str) -> Resource | None:
        found = self._builtin.get((group, version, plural))
        if found is None:
            found = self._custom.get((group, plural))
        return found if found is not None and found.version == version else None

    def of_storage(self, group_resource: GroupResource) -> Resource | None:
        return next((r for r in self if r.group_resource == group_resource), None)

    def add_custom(self, resource: Resource) -> None:
        self._custom[resource.group_resource] = resource

    def remove_custom(self, group_resource: GroupResource) -> None:
        self._custom.pop(group_resource, None)
