"""Calls that store nothing: TokenRequest, TokenReview, SelfSubjectReview, SelfSubjectAccessReview."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from . import errors, rbac
from .calls import Call
from .errors import ApiError
from .metadata import now
from .paths import Target
from .resources import PODS, SERVICE_ACCOUNTS
from .store import Object, Store
from .tokens import API_AUDIENCE, InvalidToken, Tokens, User

MIN_SECONDS, MAX_SECONDS = 600, 2**32


class Reviews:
    def __init__(self, store: Store, tokens: Tokens) -> None:
        self._store = store
        self._tokens = tokens

    def review(self, kind: str, user: User, body: Object) -> Object:
        spec = body.get("spec") or {}
        if kind == "TokenReview":
            status = self._token_status(spec)
        elif kind == "SelfSubjectAccessReview":
            status = self._access_status(user, spec)
        else:
            status = {"userInfo": user.info()}
        meta = {"creationTimestamp": now()} if kind == "SelfSubjectReview" else {}
        shown = {"kind": kind, "apiVersion": body["apiVersion"], "metadata": meta}
        return {**shown, **({"spec": spec} if spec else {}), "status": status}

    def _token_status(self, spec: dict[str, Any]) -> dict[str, Any]:
        audiences = spec.get("audiences") or [API_AUDIENCE]
        try:
            user, common = self._tokens.review(spec.get("token") or "", audiences)
        except InvalidToken as error:
            return {"user": {}, "error": str(error)}
        return {"authenticated": True, "user": user.info(), "audiences": common}

    def _access_status(self, user: User, spec: dict[str, Any]) -> dict[str, Any]:
        asked = spec.get("resourceAttributes")
        if asked:
            target = Target(
                asked.get("verb", ""), "", asked.get("group", ""), asked.get("version", ""),
                asked.get("resource", ""), asked.get("namespace", ""), asked.get("name", ""),
                asked.get("subresource", ""),
            )  # fmt: skip
        else:
            path = spec.get("nonResourceAttributes") or {}
            target = Target(path.get("verb", ""), path.get("path", ""))
        grant = rbac.authorize(self._store, user, target)
        if grant is None:
            return {"allowed": False}
        return {"allowed": True, "reason": f"RBAC: allowed by {grant.binding} of {grant.role}"}

    def request_token(self, call: Call, body: Object) -> Object:
        """The `token` subresource of a ServiceAccount."""
        account = self._store.get(SERVICE_ACCOUNTS, call.namespace, call.name)
        if account is None:
            raise errors.not_found(call.name, "", "serviceaccounts")
        spec = body.get("spec") or {}
        seconds = spec.get("expirationSeconds") or 3600
        if not isinstance(seconds, int) or not MIN_SECONDS <= seconds <= MAX_SECONDS:
            told = f"may not specify a duration less than {MIN_SECONDS // 60} minutes"
            fault = errors.invalid_value("spec.expirationSeconds", seconds, told)
            raise errors.invalid(call.name, "authentication.k8s.io", "TokenRequest", [fault])
        audiences = spec.get("audiences") or [API_AUDIENCE]
        bound = spec.get("boundObjectRef")
        pod = self._bound_pod(call, bound) if bound else None
        token = self._tokens.mint(account, audiences, seconds, pod)
        expires = (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
        meta = {
            "name": call.name,
            "namespace": call.namespace,
            "uid": account["metadata"]["uid"],
            "creationTimestamp": now(),
        }
        return {
            "kind": "TokenRequest",
            "apiVersion": "authentication.k8s.io/v1",
            "metadata": meta,
            "spec": {"audiences": audiences, "expirationSeconds": seconds, "boundObjectRef": bound},
            "status": {"token": token, "expirationTimestamp": expires},
        }

    def _bound_pod(self, call: Call, bound: dict[str, Any]) -> Object:
        if bound.get("kind") != "Pod":
            raise errors.bad_request(f"cannot bind token for serviceaccount to a {bound.get('kind')} object")
        pod = self._store.get(PODS, call.namespace, bound.get("name", ""))
        if pod is None:
            raise errors.not_found(bound.get("name", ""), "", "pods")
        if bound.get("uid") not in (None, pod["metadata"]["uid"]):
            told = (
                f"the UID in the bound object reference ({bound['uid']}) does not match the UID in record. The "
                "object might have been deleted and then recreated"
            )
            raise ApiError(409, "Conflict", told)
        used = pod["spec"].get("serviceAccountName", "default")
        if used != call.name:
            told = (
                f"cannot bind token for serviceaccount {call.name!r} to pod running with different serviceaccount name."
            )
            raise errors.bad_request(told)
        return pod
