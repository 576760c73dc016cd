"""Who is asking: bearer tokens, minted here, and what they say of their bearer."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from .resources import PODS, SERVICE_ACCOUNTS
from .store import Object, Store

API_AUDIENCE = "https://kubernetes.default.svc.cluster.local"
_EXTRA = "authentication.kubernetes.io/"


@dataclass(frozen=True)
class User:
    name: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: dict[str, list[str]] = field(default_factory=dict)

    def info(self) -> dict[str, Any]:
        """UserInfo, as reviews show it."""
        told = {"username": self.name, "uid": self.uid, "groups": list(self.groups), "extra": self.extra}
        return {key: value for key, value in told.items() if value}


ADMIN = User("kubernetes-admin", groups=("system:masters", "system:authenticated"))


class InvalidToken(Exception):
    """The token is none of ours, has expired, has another audience, or its object is gone."""


class Tokens:
    """Static tokens and signed ones of ServiceAccounts (JSON Web Tokens, HMAC-SHA256 by a key made at start)."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._key = secrets.token_bytes(32)
        self._static: dict[str, User] = {}
        self.admin = self.static(ADMIN)

    def static(self, user: User) -> str:
        """A token that never expires, for a user who is no object."""
        token = secrets.token_urlsafe(24)
        self._static[token] = user
        return token

    def revoke(self, token: str) -> None:
        """A static token counts no more."""
        del self._static[token]

    def mint(self, account: Object, audiences: list[str], seconds: int, pod: Object | None = None) -> str:
        """A ServiceAccount's token for some audiences, bound to a pod where one is given."""
        meta, issued = account["metadata"], int(time.time())
        bound: dict[str, Any] = {
            "namespace": meta["namespace"],
            "serviceaccount": {"name": meta["name"], "uid": meta["uid"]},
        }
        if pod is not None:
            bound["pod"] = {"name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]}
            if node := pod["spec"].get("nodeName"):
                found = self._store.get(("", "nodes"), "", node)
                bound["node"] = {"name": node, "uid": found["metadata"]["uid"] if found else ""}
        claims = {
            "aud": audiences,
            "exp": issued + seconds,
            "iat": issued,
            "nbf": issued,
            "iss": API_AUDIENCE,
            "jti": str(uuid.uuid4()),
            "kubernetes.io": bound,
            "sub": f"system:serviceaccount:{meta['namespace']}:{meta['name']}",
        }
        signed = f"{_encode({'alg': 'HS256', 'typ': 'JWT'})}.{_encode(claims)}"
        return f"{signed}.{self._signature(signed)}"

    def review(self, token: str, audiences: list[str]) -> tuple[User, list[str]]:
        """The bearer, and those of the audiences asked for that the token has."""
        if user := self._static.get(token):
            return user, audiences
        claims = self._claims(token)
        common = [one for one in audiences if one in claims["aud"]]
        if not common:
            raise InvalidToken(
                f"token audiences {json.dumps(claims['aud'])} is invalid for the target audiences "
                f"{json.dumps(audiences)}"
            )
        if claims["exp"] < time.time():
            raise InvalidToken("service account token has expired")
        return self._bearer(claims), common

    def _claims(self, token: str) -> dict[str, Any]:
        signed, _, signature = token.rpartition(".")
        if not signed or not hmac.compare_digest(signature.encode(), self._signature(signed).encode()):
            raise InvalidToken("invalid bearer token")
        payload = signed.partition(".")[2]
        claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return claims

    def _bearer(self, claims: dict[str, Any]) -> User:
        bound = claims["kubernetes.io"]
        namespace, account = bound["namespace"], bound["serviceaccount"]
        found = self._store.get(SERVICE_ACCOUNTS, namespace, account["name"])
        if found is None or found["metadata"]["uid"] != account["uid"]:
            raise InvalidToken("service account token has been invalidated")
        extra = {f"{_EXTRA}credential-id": [f"JTI={claims['jti']}"]}
        if pod := bound.get("pod"):
            live = self._store.get(PODS, namespace, pod["name"])
            if live is None or live["metadata"]["uid"] != pod["uid"]:
                raise InvalidToken("service account token has been invalidated")
            extra |= {f"{_EXTRA}pod-name": [pod["name"]], f"{_EXTRA}pod-uid": [pod["uid"]]}
            if node := bound.get("node"):
                extra |= {f"{_EXTRA}node-name": [node["name"]], f"{_EXTRA}node-uid": [node["uid"]]}
        groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated")
        return User(claims["sub"], account["uid"], groups, extra)

    def _signature(self, signed: str) -> str:
        digest = hmac.new(self._key, signed.encode(), hashlib.sha256).digest()
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _encode(part: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()
