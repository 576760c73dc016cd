"""The operator's permissions: as rules for the chart's roles, and as a page of the reference."""

from typing import Any

from finetune_operator.generate.text import NOTICE, markdown_file, table, to_yaml
from finetune_operator.permissions import PERMISSIONS, Permission, Scope
from finetune_operator.settings import Settings

_WHERE = {
    Scope.SERVED: "every namespace that is served",
    Scope.CLUSTER: "cluster",
    Scope.OWN: "the operator's namespace",
}


def rule(permission: Permission) -> dict[str, Any]:
    """The rule of a Role or ClusterRole that gives a permission."""
    named = [getattr(Settings(), permission.named_by)] if permission.named_by else []
    return {
        "apiGroups": [permission.group],
        "resources": [permission.full_resource],
        **({"resourceNames": named} if named else {}),
        "verbs": list(permission.verbs),
    }


def rules(scope: Scope) -> list[dict[str, Any]]:
    """The rules of a scope, in the order of the table."""
    return [rule(permission) for permission in PERMISSIONS if permission.scope is scope]


def template() -> str:
    """templates/_permissions.tpl: one named template a scope."""
    named = (
        f'{{{{- define "finetune-operator.rules.{scope.value}" -}}}}\n{_commented(scope)}{{{{- end }}}}\n'
        for scope in Scope
    )
    return f"{{{{- /* {NOTICE} */ -}}}}\n" + "".join(named)


def _commented(scope: Scope) -> str:
    of_scope = (permission for permission in PERMISSIONS if permission.scope is scope)
    return "".join(f"# {permission.why}\n{to_yaml([rule(permission)])}" for permission in of_scope)


def page() -> str:
    """docs/reference/permissions.md."""
    return markdown_file(
        "Permissions of the operator",
        "The chart gives the operator's ServiceAccount these rights and no others. With `watchNamespaces` the rights "
        "in served namespaces are Roles in just those, otherwise a ClusterRole. Training pods get none: no token for "
        "the API server is mounted into them.",
        table(["Resource", "Group", "Verbs", "Where", "Name", "Why"], map(_row, PERMISSIONS)),
    )


def _row(permission: Permission) -> tuple[str, ...]:
    named = rule(permission).get("resourceNames", [])
    return (
        f"`{permission.full_resource}`",
        f"`{permission.group}`" if permission.group else "core",
        ", ".join(permission.verbs),
        _WHERE[permission.scope],
        ", ".join(f"`{name}`" for name in named),
        permission.why,
    )
