"""ResourceQuotas: an object that its namespace has no room for is refused, and their status says what is used."""

from __future__ import annotations

from collections.abc import Collection

from finetune_local.quantities import Quantity

from . import errors
from .beside import Beside
from .calls import Call
from .errors import ApiError
from .resources import PODS, QUOTAS, GroupResource, Registry
from .store import Change, Object, Store, clone
from .usage import MUST_BE_GIVEN, Amounts, add, containers, counted_by, of_container, usage


class Quotas:
    """Refuses by what is stored at the moment; `beside` keeps the statuses."""

    def __init__(self, store: Store, registry: Registry) -> None:
        self._store = store
        self._registry = registry
        self._changed: set[str] = set()
        self.beside = Beside(store, self._heard, self._write_statuses, "quota controller")

    def admit(self, call: Call, obj: Object) -> None:
        """Raises 403 where a quota has no room for a new object, or cannot tell because a container is silent."""
        if not call.resource.namespaced:
            return
        quotas = self._store.list(QUOTAS, call.namespace)
        asked = usage(call.resource.group_resource, obj) if quotas else {}
        for quota in quotas:
            if call.resource.group_resource == PODS and (missing := _missing(obj, _hard(quota))):
                raise _refusal(call, obj, f"failed quota: {quota['metadata']['name']}: must specify {missing}")
        for quota in quotas:
            self._check_room(call, obj, asked, quota)

    def _check_room(self, call: Call, obj: Object, asked: Amounts, quota: Object) -> None:
        hard = _hard(quota)
        asked = {name: amount for name, amount in asked.items() if name in hard and amount.amount}
        used = self._used(call.namespace, asked)
        over = sorted(name for name, amount in asked.items() if (used[name] + amount).amount > hard[name].amount)
        if over:
            figures = ", ".join(
                f"{what}: {','.join(f'{name}={amounts[name]}' for name in over)}"
                for what, amounts in (("requested", asked), ("used", used), ("limited", hard))
            )
            raise _refusal(call, obj, f"exceeded quota: {quota['metadata']['name']}, {figures}")

    def _used(self, namespace: str, names: Collection[str]) -> Amounts:
        """How much of each is used in a namespace."""
        found = add(
            usage(resource.group_resource, obj)
            for counted in {counted_by(name) for name in names}
            if (resource := self._registry.of_storage(counted)) is not None
            for obj in self._store.list(resource.storage, namespace)
        )
        return {name: found.get(name, Quantity()) for name in names}

    # The statuses --------------------------------------------------------------------------------------

    def _heard(self, resource: GroupResource, change: Change) -> bool:
        namespace = change.object["metadata"].get("namespace", "")
        if not namespace or not self._store.list(QUOTAS, namespace):
            return False
        self._changed.add(namespace)
        return True

    def _write_statuses(self) -> None:
        while self._changed:
            namespace = self._changed.pop()
            for quota in self._store.list(QUOTAS, namespace):
                hard = (quota.get("spec") or {}).get("hard") or {}
                used = {name: str(amount) for name, amount in self._used(namespace, hard).items()}
                status = {"hard": hard, "used": used}
                if quota.get("status") != status:
                    self._store.put(QUOTAS, {**clone(quota), "status": clone(status)})


def _hard(quota: Object) -> Amounts:
    return {name: Quantity.of(text) for name, text in ((quota.get("spec") or {}).get("hard") or {}).items()}


def _missing(pod: Object, hard: Amounts) -> str:
    """What is limited and not named by each container, in the real server's words."""
    silent = {
        name: sorted(one["name"] for one in containers(pod) if name not in of_container(one))
        for name in sorted(MUST_BE_GIVEN & hard.keys())
    }
    return "; ".join(f"{name} for: {','.join(who)}" for name, who in silent.items() if who)


def _refusal(call: Call, obj: Object, why: str) -> ApiError:
    resource, name = call.resource, obj["metadata"]["name"]
    told = f'{errors.qualified(resource.plural, resource.group)} "{name}" is forbidden: {why}'
    return errors.forbidden(told, name, resource.group, resource.plural)
