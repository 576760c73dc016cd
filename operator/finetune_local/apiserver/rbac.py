"""May they: roles and bindings, evaluated as Kubernetes' RBAC authorizer does, and the rule that allowed it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .errors import ApiError, forbidden, qualified
from .metadata import new_uid, now
from .paths import Target
from .store import Object, Store
from .tokens import User

GROUP = "rbac.authorization.k8s.io"
ROLES, CLUSTER_ROLES = (GROUP, "roles"), (GROUP, "clusterroles")
ROLE_BINDINGS, CLUSTER_ROLE_BINDINGS = (GROUP, "rolebindings"), (GROUP, "clusterrolebindings")


@dataclass(frozen=True)
class Grant:
    """Why a call was allowed: the role, its rule's place in the role, and the binding.

    Roles and bindings are written `Kind/namespace/name`, cluster-scoped ones `Kind/name`.
    """

    role: str
    rule: int
    binding: str


SUPERUSER = Grant("system:masters", 0, "system:masters")


def authorize(store: Store, user: User, target: Target) -> Grant | None:
    """The first rule that allows the call, or None."""
    if "system:masters" in user.groups:
        return SUPERUSER
    for binding, role in _roles_of(store, user, target.namespace if target.is_resource else ""):
        for index, rule in enumerate(role.get("rules") or []):
            if _allows(rule, target):
                return Grant(_told(role), index, _told(binding))
    return None


def refusal(user: User, target: Target) -> ApiError:
    """403 in the real server's words."""
    who = f'User "{user.name}" cannot {target.verb}'
    if target.group is None:
        return forbidden(f'forbidden: {who} path "{target.path}"')
    where = f'in the namespace "{target.namespace}"' if target.namespace else "at the cluster scope"
    named = f' "{target.name}"' if target.name else ""
    told = (
        f"{qualified(target.plural, target.group)}{named} is forbidden: {who} resource "
        f'"{_resource(target)}" in API group "{target.group}" {where}'
    )
    return forbidden(told, target.name, target.group, target.plural)


def _resource(target: Target) -> str:
    return f"{target.plural}/{target.subresource}" if target.subresource else target.plural


def _told(obj: Object) -> str:
    namespace = obj["metadata"].get("namespace")
    return "/".join(filter(None, (obj["kind"], namespace, obj["metadata"]["name"])))


def _roles_of(store: Store, user: User, namespace: str) -> Iterator[tuple[Object, Object]]:
    """Bindings that hold for a user in a namespace, each with its role."""
    bindings = store.list(CLUSTER_ROLE_BINDINGS)
    if namespace:
        bindings = bindings + store.list(ROLE_BINDINGS, namespace)
    for binding in bindings:
        own = binding["metadata"].get("namespace", "")
        if any(_is_subject(subject, user, own) for subject in binding.get("subjects") or []):
            reference = binding["roleRef"]
            if reference["kind"] == "Role":
                role = store.get(ROLES, own, reference["name"])
            else:
                role = store.get(CLUSTER_ROLES, "", reference["name"])
            if role is not None:
                yield binding, role


def _is_subject(subject: dict[str, Any], user: User, namespace: str) -> bool:
    if subject["kind"] == "User":
        return bool(subject["name"] == user.name)
    if subject["kind"] == "Group":
        return subject["name"] in user.groups
    account = f"system:serviceaccount:{subject.get('namespace') or namespace}:{subject['name']}"
    return account == user.name


def _allows(rule: dict[str, Any], target: Target) -> bool:
    if not _has(rule.get("verbs"), target.verb):
        return False
    if target.group is None:
        return any(_path_matches(path, target.path) for path in rule.get("nonResourceURLs") or [])
    resources = rule.get("resources") or []
    wanted = _resource(target)
    named = rule.get("resourceNames") or []
    return (
        _has(rule.get("apiGroups"), target.group)
        and (_has(resources, wanted) or (bool(target.subresource) and f"*/{target.subresource}" in resources))
        and (not named or target.name in named)
    )


def _has(allowed: list[str] | None, wanted: str) -> bool:
    return allowed is not None and ("*" in allowed or wanted in allowed)


def _path_matches(pattern: str, path: str) -> bool:
    return path.startswith(pattern[:-1]) if pattern.endswith("*") else path == pattern


# What every cluster has ------------------------------------------------------------------------------------

_EVERYTHING = [
    {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]},
    {"nonResourceURLs": ["*"], "verbs": ["*"]},
]
_DISCOVERY = [
    "/api",
    "/api/*",
    "/apis",
    "/apis/*",
    "/healthz",
    "/livez",
    "/openapi",
    "/openapi/*",
    "/readyz",
    "/version",
]
_HEALTH = ["/healthz", "/livez", "/readyz", "/version"]
_BASIC = [
    {
        "apiGroups": ["authorization.k8s.io"],
        "resources": ["selfsubjectaccessreviews"],
        "verbs": ["create"],
    },
    {"apiGroups": ["authentication.k8s.io"], "resources": ["selfsubjectreviews"], "verbs": ["create"]},
]
_ROLES: tuple[tuple[str, list[dict[str, Any]], tuple[str, ...]], ...] = (
    ("cluster-admin", _EVERYTHING, ("system:masters",)),
    ("system:discovery", [{"nonResourceURLs": _DISCOVERY, "verbs": ["get"]}], ("system:authenticated",)),
    ("system:basic-user", _BASIC, ("system:authenticated",)),
    (
        "system:public-info-viewer",
        [{"nonResourceURLs": _HEALTH, "verbs": ["get"]}],
        ("system:authenticated", "system:unauthenticated"),
    ),
)


def bootstrap(store: Store) -> None:
    """Writes the roles and bindings that a cluster starts with."""
    for name, rules, groups in _ROLES:
        store.put(CLUSTER_ROLES, {**_object("ClusterRole", name), "rules": rules})
        subjects = [{"apiGroup": GROUP, "kind": "Group", "name": group} for group in groups]
        reference = {"apiGroup": GROUP, "kind": "ClusterRole", "name": name}
        binding = {**_object("ClusterRoleBinding", name), "roleRef": reference, "subjects": subjects}
        store.put(CLUSTER_ROLE_BINDINGS, binding)


def _object(kind: str, name: str) -> Object:
    meta = {"name": name, "uid": new_uid(), "creationTimestamp": now()}
    return {"apiVersion": f"{GROUP}/v1", "kind": kind, "metadata": meta}
