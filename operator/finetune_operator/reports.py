"""The HTTPS endpoint that training pods push progress to, in Kubeflow Trainer's wire format.

A pod proves who it is by a projected token whose audience is the operator; it speaks for itself alone. The leader
keeps what is reported, another replica hands it on to the leader. Nothing here waits for the work on a job, and a
trainer goes on whatever it is answered.
"""

import asyncio
import base64
import binascii
import hashlib
import json
import logging
import ssl
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime
from typing import Any, NoReturn

import aiohttp
from aiohttp import web
from pydantic import ValidationError

from finetune_api import names
from finetune_api.run import Report
from finetune_operator.cluster import Cluster
from finetune_operator.connection import ApiError, Unreachable
from finetune_operator.listener import Listener
from finetune_operator.observed import ReceivedReport
from finetune_operator.settings import REPORTS_PATH

log = logging.getLogger(__name__)

LARGEST_BODY = 64 * 1024
_LONGEST_REQUEST = 10.0
_IDLE = 60.0
"""Seconds that a connection may wait for its next report. Our trainer reports every five, unless its steps take
longer."""
_LINGERS = 1.0
"""Seconds for which the rest of too large a body is read and thrown away, so that its sender sees the answer."""
_FORWARDED = "Finetune-Forwarded"
_POD_UID = "authentication.kubernetes.io/pod-uid"


class TokenRefused(Exception):
    """The API server does not know the token, or it is not for us."""


class Authenticator:
    """From a token to the UID of the pod that it was made for, by TokenReview; answers are kept for a while."""

    GOOD_FOR = 180.0
    """Seconds that an answer is kept, at most until the token expires."""
    BAD_FOR = 10.0
    _MOST = 16384
    """Answers kept: several for each live job that a replica can serve. With fewer than there are pods none would last
    from one report to the next."""

    def __init__(self, cluster: Cluster, clock: Callable[[], float] = time.time) -> None:
        self._cluster = cluster
        self._clock = clock
        self._known: OrderedDict[bytes, tuple[str | None, float]] = OrderedDict()
        self._few = asyncio.Semaphore(8)

    async def pod_uid(self, token: str) -> str:
        """UID of the token's pod.

        Raises:
            TokenRefused: the token is not good for us.
            ApiError, Unreachable: the API server could not say.
        """
        digest = hashlib.sha256(token.encode()).digest()
        uid, until = self._known.get(digest, (None, 0.0))
        if until <= self._clock():
            async with self._few:
                uid = _pod_uid(await self._cluster.review_token(token))
            self._keep(digest, uid, token)
        if uid is None:
            raise TokenRefused
        return uid

    def _keep(self, digest: bytes, uid: str | None, token: str) -> None:
        now = self._clock()
        until = min(now + self.GOOD_FOR, _expiry(token)) if uid else now + self.BAD_FOR
        self._known[digest] = (uid, until)
        self._known.move_to_end(digest)
        while len(self._known) > self._MOST:
            self._known.popitem(last=False)


def _pod_uid(review: dict[str, Any]) -> str | None:
    if not review.get("authenticated") or names.MANAGER not in (review.get("audiences") or ()):
        return None
    found = ((review.get("user") or {}).get("extra") or {}).get(_POD_UID) or [None]
    return str(found[0]) if found[0] else None


def _expiry(token: str) -> float:
    """When a JSON Web Token expires, seconds since 1970; never, where it does not say."""
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return float(claims["exp"])
    except (IndexError, KeyError, TypeError, ValueError, binascii.Error):
        return float("inf")


def parse(body: bytes) -> Report:
    """The report in a request's body.

    Raises:
        ValueError: it is none. ``str()`` says why.
    """
    try:
        return Report.model_validate(json.loads(body, parse_constant=_no_constant))
    except ValidationError as e:
        first = e.errors(include_url=False, include_context=False, include_input=False)[0]
        raise ValueError(f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from None
    except (ValueError, RecursionError) as e:
        raise ValueError(f"the body is not JSON: {e}") from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


class Reports:
    """The endpoint of one replica."""

    def __init__(
        self,
        authenticator: Authenticator,
        received: Callable[[ReceivedReport], bool],
        leader: Callable[[], str | None],
        clock: Callable[[], datetime],
        host: str,
        connections: int,
        answered: Callable[[int], None] = lambda code: None,
    ) -> None:
        """``leader`` answers with the leader's address, or None where this replica leads; ``host`` is the name in the
        certificate of all replicas; ``connections`` is how many may stay open from one report to the next;
        ``answered`` is told the HTTP status of each answer."""
        self._authenticator = authenticator
        self._received = received
        self._leader = leader
        self._clock = clock
        self._host = host
        self._answered = answered
        self.listener = Listener(connections)
        self._session: aiohttp.ClientSession | None = None
        self._runner: web.AppRunner | None = None
        self._trusted: ssl.SSLContext | None = None

    async def start(self, bind: str, port: int, context: ssl.SSLContext, ca: str) -> None:
        """Listen."""
        self._trusted = ssl.create_default_context(cadata=ca)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._trusted), timeout=aiohttp.ClientTimeout(total=_LONGEST_REQUEST)
        )
        application = web.Application(client_max_size=LARGEST_BODY)
        application.router.add_post(REPORTS_PATH, self._post)
        self._runner = web.AppRunner(application, access_log=None, lingering_time=_LINGERS, keepalive_timeout=_IDLE)
        await self._runner.setup()
        server = self._runner.server
        assert server is not None  # noqa: S101 - after setup
        await self.listener.listen(server, bind, port, context)

    def trust(self, ca: str) -> None:
        """Trust further authorities, of the certificates that other replicas serve with."""
        if self._trusted:
            self._trusted.load_verify_locations(cadata=ca)

    async def stop(self) -> None:
        """Stop listening."""
        self.listener.close()
        if self._runner:
            await self._runner.cleanup()
        if self._session:
            await self._session.close()

    async def _post(self, request: web.Request) -> web.Response:
        try:
            async with asyncio.timeout(_LONGEST_REQUEST):
                code, message = await self._answer(request)
        except TimeoutError:
            code, message = 408, f"the request took longer than {_LONGEST_REQUEST:.0f} s"
        except web.HTTPRequestEntityTooLarge:
            code, message = 413, f"a report must not exceed {LARGEST_BODY} bytes"
        self._answered(code)
        response = web.json_response({"message": message}, status=code)
        if 400 <= code < 500 or self.listener.full:
            response.force_close()
        return response

    async def _answer(self, request: web.Request) -> tuple[int, str]:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            return 401, "no Authorization: Bearer"
        body = await request.read()
        leader = self._leader()
        if leader is not None:
            return await self._forward(request, body, leader)
        try:
            uid = await self._authenticator.pod_uid(token.strip())
        except TokenRefused:
            return 401, f"the token is not valid for the audience {names.MANAGER}, or not bound to a pod"
        except (ApiError, Unreachable) as e:
            log.warning("a token could not be reviewed: %s", e)
            return 503, "the token could not be reviewed"
        try:
            report = parse(body)
        except ValueError as e:
            return 400, str(e)
        if not self._received(ReceivedReport(uid, report.trainer_status, self._clock())):
            return 403, "the token's pod is not a training pod of a FineTuneJob"
        return 200, "received"

    async def _forward(self, request: web.Request, body: bytes, leader: str) -> tuple[int, str]:
        if not leader or _FORWARDED in request.headers:
            return 503, "no replica leads at the moment"
        assert self._session is not None  # noqa: S101 - set before the endpoint listens
        headers = {"Authorization": request.headers["Authorization"], _FORWARDED: "1"}
        try:
            async with self._session.post(
                f"https://{leader}{REPORTS_PATH}", data=body, headers=headers, server_hostname=self._host
            ) as response:
                return response.status, str((await response.json()).get("message"))
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as e:
            log.warning("a report could not be handed on to %s: %s", leader, e)
            return 503, "the leader cannot be reached"
