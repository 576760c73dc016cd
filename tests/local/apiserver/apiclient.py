"""A server in a thread and a plain HTTP client of it, so that tests read from top to bottom."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_local.apiserver import ApiServer

MERGE = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
APPLY = "application/apply-patch+yaml"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
JOBS = "/apis/finetune.dev/v1alpha1/namespaces/default/samplejobs"


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def events(self) -> list[Any]:
        """The lines of a watch."""
        return [json.loads(line) for line in self.text.splitlines()]

    @property
    def items(self) -> list[str]:
        """Names of the objects in a list."""
        return [item["metadata"]["name"] for item in self.json["items"]]


class Running:
    """An ApiServer with its event loop in a thread of its own, and calls on it."""

    def __init__(self, server: ApiServer, loop: asyncio.AbstractEventLoop) -> None:
        self.server = server
        self._loop = loop
        self._context = ssl.create_default_context(cadata=server.ca_pem)

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        content_type: str = "application/json",
        accept: str = "application/json",
        token: str | None = None,
        agent: str = "test/1.0",
    ) -> Answer:
        """One request. A body that is no text is sent as JSON. `token=""` sends none."""
        connection = self.connect()
        headers = {"Accept": accept, "User-Agent": agent} | ({} if token == "" else self.authorization(token))
        if body is not None:
            headers["Content-Type"] = content_type
            body = body if isinstance(body, (str, bytes)) else json.dumps(body)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return Answer(response.status, dict(response.headers), response.read().decode())

    def connect(self) -> http.client.HTTPSConnection:
        port = int(self.server.url.rpartition(":")[2])
        return http.client.HTTPSConnection("127.0.0.1", port, timeout=20, context=self._context)

    def authorization(self, token: str | None = None) -> dict[str, str]:
        return {"Authorization": f"Bearer {token or self.server.admin_token}"}

    def get(self, path: str, **more: Any) -> Answer:
        return self.call("GET", path, **more)

    def post(self, path: str, body: Any, **more: Any) -> Answer:
        return self.call("POST", path, body, **more)

    def put(self, path: str, body: Any, **more: Any) -> Answer:
        return self.call("PUT", path, body, **more)

    def patch(self, path: str, body: Any, content_type: str = MERGE, **more: Any) -> Answer:
        return self.call("PATCH", path, body, content_type, **more)

    def delete(self, path: str, body: Any = None, **more: Any) -> Answer:
        return self.call("DELETE", path, body, **more)

    def until(self, check: Callable[[], Any], seconds: float = 5.0) -> Any:
        """Waits for a check to be true, and returns what it gave."""
        deadline = time.monotonic() + seconds
        pause = threading.Event()
        while not (found := check()):
            assert time.monotonic() < deadline, "the awaited state did not come"
            pause.wait(0.01)
        return found

    def in_background(self, function: Callable[[], Any]) -> Future[Any]:
        """Runs a function in a thread of its own."""
        done: Future[Any] = Future()

        def run() -> None:
            try:
                done.set_result(function())
            except Exception as error:
                done.set_exception(error)

        threading.Thread(target=run, daemon=True).start()
        return done

    def in_loop(self, function: Callable[[], Any]) -> Any:
        """Runs a function where the server runs."""

        async def run() -> Any:
            return function()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(10)


@contextlib.contextmanager
def running(logs_dir: Path | None = None, history: int = 2000) -> Iterator[Running]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def run(coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(20)

    server = ApiServer(logs_dir=logs_dir, history=history)
    try:
        run(server.start())
        yield Running(server, loop)
    finally:
        run(server.stop())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
