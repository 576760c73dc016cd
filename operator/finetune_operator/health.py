"""Probes: ``/livez`` says that the process turns, ``/healthz`` that it is ready, and else what it waits for."""

from aiohttp import web


class Health:
    """What the operator waits for before it is ready."""

    def __init__(self) -> None:
        self.waiting: dict[str, str] = {}
        self._runner: web.AppRunner | None = None

    def waits_for(self, what: str, why: str = "") -> None:
        """Not ready until ``has(what)``."""
        self.waiting[what] = why

    def has(self, what: str) -> None:
        """One thing less to wait for."""
        self.waiting.pop(what, None)

    @property
    def ready(self) -> bool:
        """Whether nothing is missing."""
        return not self.waiting

    async def start(self, bind: str, port: int) -> None:
        """Listen."""
        application = web.Application()
        application.router.add_get("/livez", self._livez)
        application.router.add_get("/healthz", self._healthz)
        self._runner = web.AppRunner(application, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, bind, port).start()

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner:
            await self._runner.cleanup()

    async def _livez(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _healthz(self, _: web.Request) -> web.Response:
        if self.ready:
            return web.Response(text="ok\n")
        lines = [f"waiting for {what}{f': {why}' if why else ''}\n" for what, why in self.waiting.items()]
        return web.Response(text="".join(lines), status=503)
