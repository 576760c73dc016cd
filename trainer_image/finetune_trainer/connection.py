"""The HTTP connection that reports go over, kept from one report to the next.

A TLS handshake costs the operator more processor time than all the rest of a report. The connection is http.client's:
whether a report that failed went over a connection that had been used before, and may thus be tried again unsaid, only
its holder knows. The pools of urllib3 and httpx do not tell, and let no connection grow old.
"""

import base64
import http.client
import random
import ssl
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from finetune_trainer.errors import one_line

TIMEOUT_SECONDS = 5.0
"""Of silence, after which the server is given up."""
_OLDEST = 300.0
"""Seconds that a connection is used for at most. A new one goes by what name servers, load balancers, proxies and
certificates say by then."""
_LARGEST_ANSWER = 64 << 10


class Connection:
    """Sends POSTs to one URL, one after the other.

    Args:
        url: ``http://`` or ``https://``.
        authority: file of the certificate authority (PEM), read for every new connection; None: those of the system.
        clock: seconds.
    """

    def __init__(self, url: str, authority: Path | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._url, self._authority, self._clock = url, authority, clock
        self._kept: http.client.HTTPConnection | None = None
        self._until = 0.0

    def post(self, body: bytes, headers: Mapping[str, str]) -> None:
        """Sends a body. Where the server closed the kept connection in the meantime, it is sent over a new one.

        Raises:
            OSError, ValueError: it cannot be sent, or the answer is no success.
        """
        if self._clock() >= self._until:
            self.close()
        used_before = self._kept is not None and self._kept.sock is not None
        try:
            status, said = self._exchange(body, headers)
        except OSError as error:
            if not used_before or isinstance(error, TimeoutError):
                raise
            status, said = self._exchange(body, headers)
        if not 200 <= status < 300:
            raise OSError(f"the answer is {status} {http.client.responses.get(status, '')}: {said}")

    def close(self) -> None:
        """Closes the connection; the next POST opens another."""
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    def _exchange(self, body: bytes, headers: Mapping[str, str]) -> tuple[int, str]:
        """The status of the answer and how its text begins. What fails leaves no connection."""
        if self._kept is None:
            self._kept = self._opened()
            # Thousands that connect at once, to an operator that was away, do not all do so again at once.
            self._until = self._clock() + _OLDEST * random.uniform(0.5, 1.0)  # noqa: S311
        whole = False
        try:
            target = urlsplit(self._url)._replace(scheme="", netloc="", fragment="").geturl() or "/"
            self._kept.request("POST", target, body, dict(headers))
            answer = self._kept.getresponse()
            said = answer.read(_LARGEST_ANSWER)
            whole = answer.isclosed()
        except http.client.HTTPException as error:
            raise OSError(f"no answer in HTTP: {error!r}") from error
        finally:
            if not whole:
                self.close()
        return answer.status, one_line(said.decode(errors="replace"), limit=200)

    def _opened(self) -> http.client.HTTPConnection:
        """Not connected yet."""
        parts = urlsplit(self._url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{self._url} is not an HTTP URL")
        if parts.scheme == "http":
            return http.client.HTTPConnection(parts.hostname, parts.port, timeout=TIMEOUT_SECONDS)
        context = ssl.create_default_context(cafile=self._authority)
        proxy = None if proxy_bypass(parts.netloc) else getproxies().get("https")
        via = urlsplit(proxy if "://" in proxy else f"//{proxy}") if proxy else parts
        made = http.client.HTTPSConnection(via.hostname or "", via.port, timeout=TIMEOUT_SECONDS, context=context)
        if proxy:
            made.set_tunnel(parts.hostname, parts.port, _credentials(via))
        return made


def _credentials(proxy: SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
