"""A connection to an API server: raw JSON over aiohttp.

Objects stay the dicts that the server sends: making typed models of them costs ten times the CPU of watching them.
pydantic's parser shares short strings between the objects it makes, so that the many kept ones take half the memory.
The ``kubernetes`` package finds the configuration and keeps the credentials fresh.
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
from pydantic_core import from_json
from yaml import YAMLError  # comes with the kubernetes package

from finetune_api import names
from finetune_operator.observed import Raw
from finetune_operator.settings import Settings

T = TypeVar("T")

Resource = tuple[str, str]
"""Path of a group and version, and the plural."""

MERGE_PATCH = "application/merge-patch+json"
_PAGE = 500
_INITIAL = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
_INITIAL_END = "k8s.io/initial-events-end"
_MOST_WAITS = 5
"""Times that one call waits as long as the API server asks for, before its caller is told."""
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


class Connection:
    """To one API server."""

    def __init__(
        self, configuration: Configuration, settings: Settings, trace: Sequence[aiohttp.TraceConfig] = ()
    ) -> None:
        self._configuration = configuration
        self._settings = settings
        self._streams_lists = True
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=_ssl_context(configuration) or True),
            timeout=aiohttp.ClientTimeout(total=settings.request_timeout),
            proxy=configuration.proxy,
            trace_configs=list(trace),
        )

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

    async def _authorization(self) -> str | None:
        """The present value of the Authorization header."""
        auth = await self._configuration.auth_settings()
        value = auth.get("BearerToken", {}).get("value")
        return str(value) if value else None

    # one answer

    async def get_or_none(self, path: str) -> Raw | None:
        """An object; None where there is none."""
        try:
            return await self.call("GET", path)
        except ApiError as e:
            if e.code == 404:
                return None
            raise

    async def call(
        self,
        method: str,
        path: str,
        body: Raw | None = None,
        *,
        content_type: str = "application/json",
        params: dict[str, str] | None = None,
    ) -> Raw:
        """One request, made again where the API server asked for a pause and carried nothing out.

        Raises:
            ApiError: it answered with an error.
            Unreachable: it did not answer.
        """
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
                server_hostname=self._configuration.tls_server_name,
            ) as response:
                if response.status >= 400:
                    raise await _error(response)
                answer: Raw = from_json(await response.read())
                return answer
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as e:
            raise Unreachable(f"{method} {path}: {type(e).__name__}: {e}") from e

    async def _headers(self) -> dict[str, str]:
        value = await self._authorization()
        return {"Accept": "application/json", "User-Agent": names.MANAGER} | ({"Authorization": value} if value else {})

    def _url(self, path: str) -> str:
        return f"{self._configuration.host.rstrip('/')}{path}"

    # many objects

    async def list_all(
        self, resource: Resource, namespace: str | None, params: dict[str, str], read: Callable[[Raw], T]
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
        return await self.list_pages(resource, namespace, params, read)

    async def _list_streamed(
        self, resource: Resource, namespace: str | None, params: dict[str, str], read: Callable[[Raw], T]
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

    async def list_pages(
        self, resource: Resource, namespace: str | None, params: dict[str, str], read: Callable[[Raw], T]
    ) -> tuple[list[T], str]:
        """The same in pages: few objects, or an older API server."""
        items: list[T] = []
        query = dict(params) | {"limit": str(_PAGE)}
        while True:
            page = await self.call("GET", path_of(resource, namespace), params=query)
            items += [read(item) for item in page.get("items") or ()]
            query["continue"] = page["metadata"].get("continue") or ""
            if not query["continue"]:
                return items, page["metadata"]["resourceVersion"]

    async def watch(
        self, resource: Resource, namespace: str | None, params: dict[str, str], resource_version: str
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
                self._url(path_of(resource, namespace)),
                params=query,
                headers=await self._headers(),
                timeout=timeout,
                server_hostname=self._configuration.tls_server_name,
            ) as response:
                if response.status != 200:
                    raise await _error(response)
                async for line in _lines(response.content):
                    yield _event(resource[1], line)
        except (aiohttp.ClientError, TimeoutError, OSError) as e:
            raise Unreachable(f"watch of {resource[1]}: {type(e).__name__}: {e}") from e


def path_of(resource: Resource, namespace: str | None, name: str = "") -> str:
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
        event: Raw = from_json(line)
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
        status = from_json(content)
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
