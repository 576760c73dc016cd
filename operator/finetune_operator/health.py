"""What is served over plain HTTP: probes, and on a port of its own the metrics.

``/livez`` says that the process turns, ``/healthz`` that it is ready, and else what it waits for. Metrics tell of all
tenants' jobs: with a port of their own a NetworkPolicy can let the kubelet reach the one and Prometheus the other.
"""

from collections.abc import Awaitable, Callable

from aiohttp import web

from finetune_operator.metrics import Metrics

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Endpoint:
    """Paths that are served at one address."""

    def __init__(self, paths: dict[str, Handler]) -> None:
        self._paths = paths
        self._runner: web.AppRunner | None = None

    async def start(self, bind: str, port: int) -> None:
        """Listen.

        Raises:
            OSError: the address is not to be had.
        """
        application = web.Application()
        for path, handler in self._paths.items():
            application.router.add_get(path, handler)
        self._runner = web.AppRunner(application, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, bind, port).start()

    @property
    def port(self) -> int:
        """The port it listens on."""
        assert self._runner is not None  # noqa: S101 - it listens
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner:
            await self._runner.cleanup()


class Health(Endpoint):
    """What the operator waits for before it is ready."""

    def __init__(self) -> None:
        super().__init__({"/livez": self._livez, "/healthz": self._healthz})
        self.waiting: dict[str, str] = {}
        self.notes: dict[str, str] = {}
        """What is well to know of a replica that is ready, by subject."""

    def waits_for(self, what: str, why: str = "") -> None:
        """Not ready until ``has(what)``."""
        self.waiting[what] = why

    def has(self, what: str) -> None:
        """One thing less to wait for."""
        self.waiting.pop(what, None)

    def note(self, subject: str, text: str | None) -> None:
        """Something to know that keeps nobody waiting; None takes it back."""
        if text is None:
            self.notes.pop(subject, None)
        else:
            self.notes[subject] = text

    @property
    def ready(self) -> bool:
        """Whether nothing is missing."""
        return not self.waiting

    async def _livez(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _healthz(self, _: web.Request) -> web.Response:
        if self.ready:
            return web.Response(text="".join(["ok\n", *(f"note: {note}\n" for note in self.notes.values())]))
        lines = [f"waiting for {what}{f': {why}' if why else ''}\n" for what, why in self.waiting.items()]
        return web.Response(text="".join(lines), status=503)


class MetricsEndpoint(Endpoint):
    """``/metrics``."""

    def __init__(self, metrics: Metrics) -> None:
        super().__init__({"/metrics": self._answer})
        self._metrics = metrics

    async def _answer(self, request: web.Request) -> web.Response:
        body, content_type = self._metrics.text(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})
