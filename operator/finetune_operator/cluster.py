"""The only module that talks to the API server: raw JSON over aiohttp.

Objects stay the dicts that the server sends: making typed models of them costs ten times the CPU of watching them.
The ``kubernetes`` package finds the configuration and keeps the credentials fresh. ``permissions.PERMISSIONS`` is what
the calls below need, and all they need.
"""

import asyncio
import json
import os
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Self, TypeVar
from urllib.parse import quote

import aiohttp
from kubernetes.aio.client import Configuration
from kubernetes.aio.config import ConfigException, incluster_config, kube_config
from yaml import YAMLError  # comes with the kubernetes package

from finetune_api import names
from finetune_operator.observed import Raw
from finetune_operator.settings import Settings

T = TypeVar("T")

JOBS = ("/apis/batch/v1", "jobs")
PODS = ("/api/v1", "pods")
PROFILES = (f"/apis/{names.API_VERSION}", names.PROFILE_PLURAL)
EVENTS = ("/api/v1", "events")
FINETUNEJOBS = (f"/apis/{names.API_VERSION}", names.PLURAL)
MANAGED = f"{names.LABEL_MANAGED_BY}={names.MANAGER}"

_PAGE = 500
_INITIAL = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
_INITIAL_END = "k8s.io/initial-events-end"
_MOST_WAITS = 5
"""Times that one call waits as long as the API server asks for, before its caller is told."""
_MERGE_PATCH = "application/merge-patch+json"
_DEFAULT_KUBECONFIG = Path.home() / ".kube" / "config"


class ApiError(Exception):
    """The API server answered with an error; the attributes are those of its Status object.

    ``retry_after`` is how many seconds it wants to be left alone: its header Retry-After.
    """

    def __init__(self, code: int, status: Raw, retry_after: float = 0.0) -> None:
        self.code = code
        self.retry_after = retry_after
        self.reason = str(status.get("reason") or "")
        self.message = str(status.get("message") or f"HTTP {code}")
        causes = (status.get("details") or {}).get("causes") or ()
        self.causes = tuple(str(cause.get("reason")) for cause in causes)
        super().__init__(f"{code} {self.reason}: {self.message}")

    @property
    def is_taken(self) -> bool:
        """Whether something of this name exists already."""
        return self.code == 409 and self.reason == "AlreadyExists"


class Unreachable(Exception):
    """The API server could not be reached, or did not answer in time."""


class NoCluster(Exception):
    """No API server is configured. ``str()`` says what was looked at and what is missing."""


class Cluster:
    """A connection to one API server."""

    def __init__(
        self, configuration: Configuration, settings: Settings, trace: Sequence[aiohttp.TraceConfig] = ()
    ) -> None:
        self.configuration = configuration
        self._settings = settings
        self._streams_lists = True
        self._ssl = _ssl_context(configuration)
        self._session = self._new_session(trace, {})

    @classmethod
    async def connect(cls, settings: Settings, *trace: aiohttp.TraceConfig) -> Self:
        """Find the configuration as kubectl does: KUBECONFIG, the pod's ServiceAccount, ~/.kube/config.

        ``trace`` is told of every request.

        Raises:
            NoCluster: there is none.
        """
        configuration = Configuration()
        path = os.environ.get("KUBECONFIG")
        try:
            if not path and os.environ.get(incluster_config.SERVICE_HOST_ENV_NAME):
                incluster_config.load_incluster_config(configuration)  # type: ignore[no-untyped-call]
            else:
                load = kube_config.load_kube_config(  # type: ignore[no-untyped-call]
                    path or str(_DEFAULT_KUBECONFIG), client_configuration=configuration, persist_config=False
                )
                await load
        except (ConfigException, OSError, YAMLError) as e:
            where = f"KUBECONFIG={path}" if path else f"a pod's ServiceAccount, and {_DEFAULT_KUBECONFIG}"
            why = " ".join(str(e).split())
            raise NoCluster(f"no API server: looked at {where}: {why}; set KUBECONFIG, or run in a pod") from e
        return cls(configuration, settings, trace)

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def session(self, *trace: aiohttp.TraceConfig) -> aiohttp.ClientSession:
        """A session of the caller's own, with the present credentials. ``trace`` is told of its requests."""
        value = await self._authorization()
        return self._new_session(trace, {"Authorization": value} if value else {})

    def _new_session(self, trace: Sequence[aiohttp.TraceConfig], headers: dict[str, str]) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=self._ssl if self._ssl else True),
            timeout=aiohttp.ClientTimeout(total=self._settings.request_timeout),
            proxy=self.configuration.proxy,
            trace_configs=list(trace),
            headers=headers,
        )

    async def _authorization(self) -> str | None:
        """The present value of the Authorization header."""
        auth = await self.configuration.auth_settings()
        value = auth.get("BearerToken", {}).get("value")
        return str(value) if value else None

    # FineTuneJobs

    async def serves_finetunejobs(self) -> bool:
        """Whether the CustomResourceDefinition is there and established."""
        try:
            found = await self._call("GET", FINETUNEJOBS[0])
        except ApiError as e:
            if e.code == 404:
                return False
            raise
        return any(resource["name"] == names.PLURAL for resource in found.get("resources", ()))

    async def list_finetunejobs(self, namespace: str | None, read: Callable[[Raw], T]) -> list[T]:
        """What is read of all FineTuneJobs of a namespace, or of all (None)."""
        return (await self.list_all(FINETUNEJOBS, namespace, {}, read))[0]

    async def get_finetunejob(self, namespace: str, name: str) -> Raw | None:
        """A FineTuneJob as it is now."""
        return await self._get_or_none(_path(FINETUNEJOBS, namespace, name))

    async def patch_status(self, namespace: str, name: str, resource_version: str, status: Raw) -> Raw:
        """Merge into the status, if the FineTuneJob is still at this resourceVersion; the answer is the object.

        Raises:
            ApiError: 409 where it is not, 404 where it is gone.
        """
        body = {"metadata": {"resourceVersion": resource_version}, "status": status}
        path = f"{_path(FINETUNEJOBS, namespace, name)}/status"
        return await self._call("PATCH", path, body, content_type=_MERGE_PATCH, params=_OWN)

    async def get_profile(self, name: str) -> Raw | None:
        """A FineTuneProfile as it is now; None also where there is no definition of them."""
        return await self._get_or_none(_path(PROFILES, None, name))

    # Jobs, pods and Events

    async def create_job(self, manifest: Raw) -> Raw:
        """Create a Job."""
        return await self._call("POST", _path(JOBS, manifest["metadata"]["namespace"]), manifest, params=_OWN)

    async def get_job(self, namespace: str, name: str) -> Raw | None:
        """A Job as it is now."""
        return await self._get_or_none(_path(JOBS, namespace, name))

    async def create_service(self, manifest: Raw) -> Raw:
        """Create a Service."""
        return await self._call("POST", _path(_SERVICES, manifest["metadata"]["namespace"]), manifest, params=_OWN)

    async def get_service(self, namespace: str, name: str) -> Raw | None:
        """A Service as it is now."""
        return await self._get_or_none(_path(_SERVICES, namespace, name))

    async def delete_job(self, namespace: str, name: str, uid: str, resource_version: str) -> None:
        """Delete a Job and then its pods, if it is still this one and unchanged.

        Raises:
            ApiError: 409 where it is not.
        """
        preconditions = {"uid": uid, "resourceVersion": resource_version}
        options = {"propagationPolicy": "Background", "preconditions": preconditions}
        try:
            await self._call("DELETE", _path(JOBS, namespace, name), options)
        except ApiError as e:
            if e.code != 404:
                raise

    async def list_refusals(self, namespace: str, uid: str) -> list[Raw]:
        """The Events of a Job about pods that could not be created."""
        selector = f"involvedObject.uid={uid},reason=FailedCreate"
        return (await self._list_pages(EVENTS, namespace, {"fieldSelector": selector}, dict))[0]

    async def list_pods_of(self, namespace: str, uid: str) -> list[Raw]:
        """The training pods of a FineTuneJob as they are now."""
        selector = f"{MANAGED},{names.LABEL_JOB_UID}={uid}"
        return (await self._list_pages(PODS, namespace, {"labelSelector": selector}, dict))[0]

    async def create_event(self, manifest: Raw) -> None:
        """Create an Event; one that exists already says the same."""
        path = _path(EVENTS, manifest["metadata"]["namespace"])
        try:
            await self._call("POST", path, manifest, params=_OWN)
        except ApiError as e:
            if e.code != 409:
                raise

    async def list_all(
        self, resource: tuple[str, str], namespace: str | None, params: dict[str, str], read: Callable[[Raw], T]
    ) -> tuple[list[T], str]:
        """What is read of all objects of a resource, and the resourceVersion to watch from.

        Objects come one by one in a single answer, so that thousands of them are never held as they come. An API server
        before Kubernetes 1.32, or one without the feature WatchList, is asked for pages.
        """
        if self._streams_lists:
            try:
                return await self._list_streamed(resource, namespace, params, read)
            except ApiError as e:
                if e.code not in (400, 422):
                    raise
                self._streams_lists = False
        return await self._list_pages(resource, namespace, params, read)

    async def _list_streamed(
        self, resource: tuple[str, str], namespace: str | None, params: dict[str, str], read: Callable[[Raw], T]
    ) -> tuple[list[T], str]:
        """By a watch that begins with all there is, up to the bookmark that says so."""
        items: dict[str, T] = {}
        async with aclosing(self.watch(resource, namespace, params | _INITIAL, "")) as events:
            async for event in events:
                meta = event["object"]["metadata"]
                if event["type"] == "BOOKMARK":
                    if (meta.get("annotations") or {}).get(_INITIAL_END) == "true":
                        return list(items.values()), meta["resourceVersion"]
                elif event["type"] == "DELETED":
                    items.pop(meta["uid"], None)
                else:
                    items[meta["uid"]] = read(event["object"])
        raise Unreachable(f"list of {resource[1]}: it ended before it was complete")

    async def _list_pages(
        self, resource: tuple[str, str], namespace: str | None, params: dict[str, str], read: Callable[[Raw], T]
    ) -> tuple[list[T], str]:
        items: list[T] = []
        query = dict(params) | {"limit": str(_PAGE)}
        while True:
            page = await self._call("GET", _path(resource, namespace), params=query)
            items += [read(item) for item in page.get("items") or ()]
            query["continue"] = page["metadata"].get("continue") or ""
            if not query["continue"]:
                return items, page["metadata"]["resourceVersion"]

    async def watch(
        self, resource: tuple[str, str], namespace: str | None, params: dict[str, str], resource_version: str
    ) -> AsyncGenerator[Raw, None]:
        """The events of a resource after a resourceVersion, bookmarks included, until the server ends the watch.

        Raises:
            ApiError: 410 where the resourceVersion is too old, 502 where a line is no event.
            Unreachable: the connection broke, or stayed silent for too long.
        """
        query = dict(params) | {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(int(self._settings.watch_timeout)),
        }
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=self._settings.watch_quiet)
        try:
            async with self._session.get(
                self._url(_path(resource, namespace)),
                params=query,
                headers=await self._headers(),
                timeout=timeout,
                server_hostname=self.configuration.tls_server_name,
            ) as response:
                if response.status != 200:
                    raise await _error(response)
                async for line in _lines(response.content):
                    yield _event(resource[1], line)
        except (aiohttp.ClientError, TimeoutError, OSError) as e:
            raise Unreachable(f"watch of {resource[1]}: {type(e).__name__}: {e}") from e

    # Tokens, Lease and certificate

    async def review_token(self, token: str) -> Raw:
        """The status of a TokenReview for our audience."""
        spec = {"token": token, "audiences": [names.MANAGER]}
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec}
        answer = await self._call("POST", "/apis/authentication.k8s.io/v1/tokenreviews", review)
        return dict(answer.get("status") or {})

    async def get_lease(self) -> Raw | None:
        """The Lease of the leader election."""
        return await self._get_or_none(_path(_LEASES, self._settings.namespace, self._settings.lease_name))

    async def create_lease(self, lease: Raw) -> Raw:
        """Create the Lease. 409 where another replica was faster."""
        return await self._call("POST", _path(_LEASES, self._settings.namespace), lease)

    async def update_lease(self, lease: Raw) -> Raw:
        """Replace the Lease, if it is still at its resourceVersion."""
        path = _path(_LEASES, self._settings.namespace, self._settings.lease_name)
        return await self._call("PUT", path, lease)

    async def get_reports_secret(self) -> Raw | None:
        """The Secret with the certificate of the reports endpoint."""
        return await self._get_or_none(_path(_SECRETS, self._settings.namespace, self._settings.reports_secret))

    async def update_reports_secret(self, secret: Raw) -> Raw:
        """Replace that Secret, if it is still at its resourceVersion."""
        path = _path(_SECRETS, self._settings.namespace, self._settings.reports_secret)
        return await self._call("PUT", path, secret)

    # HTTP

    async def _get_or_none(self, path: str) -> Raw | None:
        try:
            return await self._call("GET", path)
        except ApiError as e:
            if e.code == 404:
                return None
            raise

    async def _call(
        self,
        method: str,
        path: str,
        body: Raw | None = None,
        *,
        content_type: str = "application/json",
        params: dict[str, str] | None = None,
    ) -> Raw:
        data = json.dumps(body, separators=(",", ":")).encode() if body is not None else None
        for _ in range(_MOST_WAITS):
            try:
                return await self._once(method, path, data, content_type, params)
            except ApiError as e:
                if e.code != 429 or not 0 < e.retry_after <= self._settings.request_timeout:
                    raise
                await asyncio.sleep(e.retry_after)  # nothing was carried out
        return await self._once(method, path, data, content_type, params)

    async def _once(
        self, method: str, path: str, data: bytes | None, content_type: str, params: dict[str, str] | None
    ) -> Raw:
        headers = await self._headers() | {"Content-Type": content_type}
        try:
            async with self._session.request(
                method,
                self._url(path),
                data=data,
                params=params,
                headers=headers,
                server_hostname=self.configuration.tls_server_name,
            ) as response:
                if response.status >= 400:
                    raise await _error(response)
                answer: Raw = json.loads(await response.read())
                return answer
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as e:
            raise Unreachable(f"{method} {path}: {type(e).__name__}: {e}") from e

    async def _headers(self) -> dict[str, str]:
        value = await self._authorization()
        return {"Accept": "application/json", "User-Agent": names.MANAGER} | ({"Authorization": value} if value else {})

    def _url(self, path: str) -> str:
        return f"{self.configuration.host.rstrip('/')}{path}"


_LEASES = ("/apis/coordination.k8s.io/v1", "leases")
_SECRETS = ("/api/v1", "secrets")
_SERVICES = ("/api/v1", "services")
_OWN = {"fieldManager": names.MANAGER}


def _path(resource: tuple[str, str], namespace: str | None, name: str = "") -> str:
    """The path of a collection or an object. Names are quoted: one with a slash in it must not lead elsewhere."""
    prefix, plural = resource
    inside = f"/namespaces/{quote(namespace, safe='')}" if namespace else ""
    return f"{prefix}{inside}/{plural}" + (f"/{quote(name, safe='')}" if name else "")


def _ssl_context(configuration: Configuration) -> ssl.SSLContext | None:
    """TLS as the configuration asks for; None for a server without it."""
    if not str(configuration.host).startswith("https:"):
        return None
    context = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, keyfile=configuration.key_file)
    if not configuration.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _event(what: str, line: bytes) -> Raw:
    """A line of a watch."""
    try:
        event: Raw = json.loads(line)
        kind, meta = event["type"], event["object"].get("metadata", {})
        if kind != "ERROR" and "resourceVersion" not in meta:
            raise KeyError("resourceVersion")
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        told = f"watch of {what}: a line that is no event: {line[:200].decode(errors='replace')!r}"
        raise ApiError(502, {"reason": "BadGateway", "message": told}) from e
    if kind == "ERROR":
        raise ApiError(event["object"].get("code", 500), event["object"])
    return event


async def _error(response: aiohttp.ClientResponse) -> ApiError:
    content, wait = await response.read(), response.headers.get("Retry-After", "")
    try:
        status = json.loads(content)
    except ValueError:
        status = None
    told = status if isinstance(status, dict) else {"message": content.decode(errors="replace")[:500]}
    return ApiError(response.status, told, float(wait) if wait.isdecimal() else 0.0)


async def _lines(stream: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """The lines of a stream, of any length."""
    rest = b""
    async for chunk in stream.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line:
                yield line
