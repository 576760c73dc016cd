"""The embedded Kubernetes API server: start, stop, and what a host process or a test needs of it."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from aiohttp import web

from . import rbac
from .api import BODY_LIMIT, Api
from .certificates import serving_context
from .collector import Collector
from .metadata import new_uid, now
from .requests import Interceptor, RequestRecord
from .resources import BUILTIN, CRDS, NAMESPACES, SERVICE_ACCOUNTS, GroupResource, Registry, from_crd
from .store import Change, Past, Store
from .tokens import Tokens, User

_NAMESPACES = ("default", "kube-system")


class ApiServer:
    """Speaks HTTPS on loopback, holds its objects in memory, and forgets all when it stops.

    `logs_dir` is where pods' logs are read from: `<logs_dir>/<pod uid>/<container>.log`.
    `history` is how many changes of each resource a watch can go back.
    """

    def __init__(
        self, host: str = "127.0.0.1", port: int = 0, logs_dir: Path | None = None, history: int = 2000
    ) -> None:
        self._host = host
        self._port = port
        self.store = Store(history)
        self.registry = Registry()
        for resource in BUILTIN:
            self.store.open(resource.storage)
        self._tokens = Tokens(self.store)
        self._api = Api(self.store, self.registry, self._tokens, logs_dir)
        self._beside = (Collector(self.store, self.registry, self._api.deleter).beside, self._api.quotas.beside)
        self._runner: web.AppRunner | None = None
        self._context, self.ca_pem = serving_context(host)
        self.store.listen(self._heard)
        rbac.bootstrap(self.store)
        for name in _NAMESPACES:
            self._add_namespace(name)

    async def start(self) -> None:
        app = web.Application(client_max_size=BODY_LIMIT)
        app.router.add_route("*", "/{path:.*}", self._api.handle)
        # A client that goes away ends its watch at once. Writes do not await, so none is cut in half.
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.5)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self._port, ssl_context=self._context)
        await site.start()
        self._port = self._runner.addresses[0][1]
        for beside in self._beside:
            beside.start()

    async def stop(self) -> None:
        for beside in self._beside:
            await beside.stop()
        self._api.watches.end()
        if self._runner:
            await self._runner.cleanup()
            self._runner = None

    @property
    def url(self) -> str:
        return f"https://{self._host}:{self._port}"

    @property
    def admin_token(self) -> str:
        return self._tokens.admin

    def token_for(self, user: str, *groups: str) -> str:
        """A token of a plain user, who may do what roles bound to the name or the groups allow."""
        return self._tokens.static(User(user, groups=(*groups, "system:authenticated")))

    def revoke(self, token: str) -> None:
        """A token of `token_for` counts no more; watches that it opened go on."""
        self._tokens.revoke(token)

    def kubeconfig(self, token: str | None = None, namespace: str = "default") -> dict[str, Any]:
        """A kubeconfig as data (dump it as YAML or JSON); for the administrator where no token is given."""
        authority = base64.b64encode(self.ca_pem.encode()).decode()
        cluster = {"server": self.url, "certificate-authority-data": authority}
        context = {"cluster": "local", "user": "local", "namespace": namespace}
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "local", "cluster": cluster}],
            "users": [{"name": "local", "user": {"token": token or self.admin_token}}],
            "contexts": [{"name": "local", "context": context}],
            "current-context": "local",
        }

    # For tests -----------------------------------------------------------------------------------------

    @property
    def requests(self) -> list[RequestRecord]:
        """Every request so far, in the order of arrival."""
        return self._api.requests

    @property
    def interceptor(self) -> Interceptor | None:
        return self._api.interceptor

    @interceptor.setter
    def interceptor(self, interceptor: Interceptor | None) -> None:
        self._api.interceptor = interceptor

    @property
    def open_watches(self) -> int:
        return len(self._api.watches)

    def end_watches(self, resource: GroupResource | None = None) -> None:
        """Ends the watches of one (group, plural), or all, as a real server does now and then."""
        self._api.watches.end(resource)

    def silence_watches(self, user: str) -> None:
        """Lets a user's watches that are open stay open and bring nothing more: a half-open connection."""
        self._api.watches.silence(user)

    def say(self, line: bytes, resource: GroupResource, user: str) -> None:
        """Sends a line of any kind by a user's watches that are open."""
        self._api.watches.say(line, resource, user)

    def disturb_watches(self, copies: int = 1, delays: dict[GroupResource, float] | None = None) -> None:
        """Sends each change so many times, and those of a resource so many seconds late."""
        self._api.watches.copies, self._api.watches.delays = copies, delays or {}

    def lag(self, past: Past | None) -> None:
        """From now on lists are as they were, as those of a server whose cache lags, and watches wait; or no longer.

        `store.present()` is what to remember for that.
        """
        self.store.show(past)

    def compact(self) -> None:
        """Forgets all history: watches that come back get 410 Expired."""
        self.store.compact()

    # What the server does by itself --------------------------------------------------------------------

    def _heard(self, resource: GroupResource, change: Change) -> None:
        if resource == CRDS:
            self._definition_changed(change)
        elif resource == NAMESPACES and change.type == "ADDED":
            self._add_service_account(change.object["metadata"]["name"])

    def _definition_changed(self, change: Change) -> None:
        served = from_crd(change.object)
        if change.type == "DELETED":
            self.registry.remove_custom(served.group_resource)
            self._api.watches.end(served.group_resource)
            self.store.close(served.group_resource)
        else:
            self.registry.add_custom(served)
            self.store.open(served.storage)

    def _add_namespace(self, name: str) -> None:
        labels = {"kubernetes.io/metadata.name": name}
        meta = {"name": name, "uid": new_uid(), "creationTimestamp": now(), "labels": labels}
        self.store.put(
            NAMESPACES,
            {
                "apiVersion": "v1",
                "kind": "Namespace",
                "metadata": meta,
                "spec": {"finalizers": ["kubernetes"]},
                "status": {"phase": "Active"},
            },
        )

    def _add_service_account(self, namespace: str) -> None:
        meta = {"name": "default", "namespace": namespace, "uid": new_uid(), "creationTimestamp": now()}
        self.store.put(SERVICE_ACCOUNTS, {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta})
