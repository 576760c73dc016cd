"""A small asyncio client of the Kubernetes API: JSON in, JSON out, and a cache kept by LIST + WATCH."""

import asyncio
import json
import logging
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from types import TracebackType
from typing import Any, Self

import aiohttp

log = logging.getLogger(__name__)

Object = dict[str, Any]
"""A Kubernetes object as JSON."""

MERGE_PATCH = "application/merge-patch+json"
_WATCH_SECONDS = 300
_RETRY_SECONDS = (0.05, 0.2, 0.5, 1.0, 2.0)


class ApiError(Exception):
    """What the API server refused: HTTP ``status``, the Status object's ``reason`` and ``message``.

    An API server that cannot be reached counts as one that answers 503.
    """

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message

    @property
    def not_found(self) -> bool:
        return self.status == 404

    @property
    def conflict(self) -> bool:
        """Somebody was quicker: the object changed, or one of this name exists."""
        return self.status == 409


class ApiClient:
    """Talks to one API server with one bearer token. Use it as an async context manager.

    Args:
        url: ``https://127.0.0.1:6443``.
        token: bearer token.
        ca_pem: the server's certificate authority.
        field_manager: name under which writes are recorded.
    """

    def __init__(self, url: str, token: str, ca_pem: str, field_manager: str = "finetune-local") -> None:
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}", "User-Agent": field_manager}
        self._ssl = ssl.create_default_context(cadata=ca_pem)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=_WATCH_SECONDS + 30)
        connector = aiohttp.TCPConnector(ssl=self._ssl, limit=0)
        self._session = aiohttp.ClientSession(headers=self._headers, timeout=timeout, connector=connector)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def get(self, path: str, *, accept: str = "application/json", **params: str) -> Object:
        """An object, a list, or with ``accept`` another rendering of them.

        Raises:
            ApiError: any answer but success.
        """
        return await self._call("GET", path, params=params, headers={"Accept": accept})

    async def create(self, path: str, body: Object, **params: str) -> Object:
        """POST to a collection or a subresource."""
        return await self._call("POST", path, body, params=params)

    async def replace(self, path: str, body: Object, **params: str) -> Object:
        """PUT; ``metadata.resourceVersion`` in the body is a precondition."""
        return await self._call("PUT", path, body, params=params)

    async def patch(self, path: str, body: Object) -> Object:
        """JSON merge patch."""
        return await self._call("PATCH", path, body, headers={"Content-Type": MERGE_PATCH})

    async def delete(self, path: str, options: Object | None = None) -> Object:
        """DELETE with ``DeleteOptions``."""
        return await self._call("DELETE", path, {"apiVersion": "v1", "kind": "DeleteOptions", **(options or {})})

    async def text(self, path: str, **params: str) -> str:
        """A plain text, such as a pod's log."""
        async with self._open().get(self._url + path, params=params) as response:
            await _raise_for(response)
            return await response.text(errors="replace")

    async def watch(self, path: str, resource_version: str, **selectors: str) -> AsyncIterator[tuple[str, Object]]:
        """``(ADDED | MODIFIED | DELETED | BOOKMARK | ERROR, object)`` until the server ends the watch."""
        params = {
            **selectors,
            "watch": "1",
            "resourceVersion": resource_version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(_WATCH_SECONDS),
        }
        async with self._open().get(self._url + path, params=params) as response:
            await _raise_for(response)
            async for line in _lines(response.content.iter_any()):
                event = json.loads(line)
                yield event["type"], event["object"]

    async def _call(
        self,
        method: str,
        path: str,
        body: Object | None = None,
        params: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
    ) -> Object:
        sent = {"Content-Type": "application/json", **(headers or {})}
        data = None if body is None else json.dumps(body).encode()
        url = self._url + path
        try:
            async with self._open().request(method, url, data=data, params=params, headers=sent) as response:
                await _raise_for(response)
                answer: Object = json.loads(await response.read())
                return answer
        except (aiohttp.ClientError, TimeoutError) as e:
            raise ApiError(503, "ServiceUnavailable", f"{method} {path}: {e}") from None

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("ApiClient is used outside of 'async with'")
        return self._session


async def _raise_for(response: aiohttp.ClientResponse) -> None:
    if response.status < 400:
        return
    text = await response.text()
    try:
        status = json.loads(text)
        raise ApiError(response.status, status.get("reason", ""), status.get("message", text))
    except (json.JSONDecodeError, AttributeError):
        raise ApiError(response.status, response.reason or "", text.strip()) from None


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Lines of any length (aiohttp's own reader refuses those beyond its buffer)."""
    rest = b""
    async for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            if line.strip():
                yield line


def key_of(obj: Object) -> tuple[str, str]:
    """``(namespace, name)``."""
    return obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


class Cache:
    """All objects of one collection, kept by LIST + WATCH.

    Own writes are put in by :meth:`note`, so that nobody decides on a state from before them.

    Args:
        client: where from.
        path: the collection, such as ``/api/v1/pods``.
        on_change: called with every object that was added, changed or removed.
    """

    def __init__(self, client: ApiClient, path: str, on_change: Callable[[Object], None]) -> None:
        self._client = client
        self._path = path
        self._on_change = on_change
        self._objects: dict[tuple[str, str], Object] = {}
        self._gone: deque[str] = deque(maxlen=4096)
        self.synced = asyncio.Event()
        """Set once the first list is in."""

    def __iter__(self) -> Iterator[Object]:
        return iter(tuple(self._objects.values()))

    def get(self, key: tuple[str, str]) -> Object | None:
        """The object of a namespace and name."""
        return self._objects.get(key)

    def note(self, obj: Object) -> None:
        """Takes over the answer to an own write, unless something newer is known."""
        if obj["metadata"]["uid"] not in self._gone:
            self._put(obj)

    async def run(self) -> None:
        """Lists and watches for ever; faults are waited out."""
        failures = 0
        while True:
            try:
                version = await self._list()
                failures = 0
                await self._follow(version)
            except (ApiError, aiohttp.ClientError, TimeoutError, json.JSONDecodeError) as e:
                log.debug("watch of %s: %s", self._path, e)
                await asyncio.sleep(_RETRY_SECONDS[min(failures, len(_RETRY_SECONDS) - 1)])
                failures += 1

    async def _list(self) -> str:
        answer = await self._client.get(self._path)
        kind, version = answer["kind"].removesuffix("List"), answer["apiVersion"]
        listed = {key_of(item): {"kind": kind, "apiVersion": version, **item} for item in answer.get("items") or ()}
        for key in [k for k in self._objects if k not in listed]:
            self._remove(self._objects[key])
        for item in listed.values():
            self._put(item)
        self.synced.set()
        return str(answer["metadata"]["resourceVersion"])

    async def _follow(self, version: str) -> None:
        while True:
            async for kind, obj in self._client.watch(self._path, version):
                if kind == "ERROR":
                    raise ApiError(obj.get("code", 500), obj.get("reason", ""), obj.get("message", ""))
                version = obj["metadata"]["resourceVersion"]
                if kind == "DELETED":
                    self._remove(obj)
                elif kind != "BOOKMARK":
                    self._put(obj)

    def _put(self, obj: Object) -> None:
        known = self._objects.get(key_of(obj))
        if known is not None and _version(known) >= _version(obj):
            return
        self._objects[key_of(obj)] = obj
        self._on_change(obj)

    def _remove(self, obj: Object) -> None:
        self._gone.append(obj["metadata"]["uid"])
        known = self._objects.get(key_of(obj))
        if known is not None and known["metadata"]["uid"] == obj["metadata"]["uid"]:
            del self._objects[key_of(obj)]
            self._on_change(obj)


def _version(obj: Object) -> int:
    return int(obj["metadata"]["resourceVersion"])
