"""HTTP in, HTTP out: authentication, authorization, and each call to the part that knows it."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from aiohttp import web

from . import decode, discovery, errors, events, logs, openapi, protobuf, rbac, tables
from .calls import Call
from .deletes import Deleter
from .errors import ApiError
from .paths import Target, parse
from .quotas import Quotas
from .requests import KEPT, DropConnection, Interceptor, RequestRecord
from .resources import PODS, Registry, Resource
from .reviews import Reviews
from .selectors import Predicate, field_selector, label_selector
from .store import Object, Store
from .tokens import API_AUDIENCE, InvalidToken, Tokens, User
from .watches import Watch, WatchHub
from .writes import Writer

_log = logging.getLogger(__name__)

BODY_LIMIT = 3 * 1024 * 1024  # bytes
_ANONYMOUS = User("system:anonymous", groups=("system:unauthenticated",))
_OPEN_PATHS = ("/healthz", "/livez", "/readyz", "/version")
_REVIEW_GROUPS = ("authentication.k8s.io", "authorization.k8s.io")


class Api:
    def __init__(self, store: Store, registry: Registry, tokens: Tokens, logs_dir: Path | None) -> None:
        self.store = store
        self.registry = registry
        self.tokens = tokens
        self.watches = WatchHub(store)
        self.deleter = Deleter(store)
        self.requests: list[RequestRecord] = []
        self.interceptor: Interceptor | None = None
        self.quotas = Quotas(store, registry)
        self._writer = Writer(store, registry, self.quotas)
        self._reviews = Reviews(store, tokens)
        self._logs_dir = logs_dir

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Every request. Failures become Status objects; nothing else leaves here."""
        record = RequestRecord(request.method, request.path_qs, request.headers.get("User-Agent", ""))
        self.requests.append(record)
        if len(self.requests) > 2 * KEPT:
            del self.requests[:KEPT]
        try:
            response = await self._answer(request, record)
        except ApiError as error:
            wait = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
            response = _json(error.status(), error.code, wait)
        except DropConnection:
            if request.transport is not None:
                request.transport.abort()
            return web.Response()
        except ConnectionResetError:
            return web.Response()  # the client went away in the middle of a watch or a log
        except web.HTTPRequestEntityTooLarge:
            refused = errors.too_large(BODY_LIMIT)
            response = _json(refused.status(), refused.code)
        except Exception:
            _log.exception("%s %s", request.method, request.path_qs)
            failed = ApiError(500, "InternalError", f"Internal error occurred: see the server's log, {request.path}")
            response = _json(failed.status(), failed.code)
        record.status = response.status
        return response

    async def _answer(self, request: web.Request, record: RequestRecord) -> web.StreamResponse:
        target = parse(request.method, request.path, request.query)
        user = self._authenticate(request)
        record.user, record.verb, record.group = user.name, target.verb, target.group or ""
        record.resource, record.subresource = target.plural, target.subresource
        record.namespace, record.name = target.namespace, target.name
        record.dry_run = bool(request.query.get("dryRun"))
        record.grant = rbac.authorize(self.store, user, target)
        if record.grant is None:
            raise rbac.refusal(user, target) if user is not _ANONYMOUS else errors.unauthorized()
        if self.interceptor:
            await self.interceptor(record, "before")
        if not target.is_resource:
            return await self._nonresource(request, target)
        if not target.plural:
            return _optional(discovery.resource_list(self.registry, target.group or "", target.version))
        response = await self._resource(request, target, user)
        if self.interceptor and not response.prepared:
            await self.interceptor(record, "after")
        return response

    def _authenticate(self, request: web.Request) -> User:
        header = request.headers.get("Authorization", "")
        if not header and request.path in _OPEN_PATHS:
            return _ANONYMOUS
        scheme, _, token = header.partition(" ")
        try:
            if scheme.lower() != "bearer":
                raise InvalidToken("no bearer token")
            return self.tokens.review(token.strip(), [API_AUDIENCE])[0]
        except InvalidToken as error:
            raise errors.unauthorized() from error

    # Discovery and health ------------------------------------------------------------------------------

    async def _nonresource(self, request: web.Request, target: Target) -> web.StreamResponse:
        parts = [part for part in target.path.split("/") if part]
        accept = request.headers.get("Accept", "")
        if request.method not in ("GET", "HEAD"):
            raise errors.method_not_allowed()
        if target.path in ("/healthz", "/livez", "/readyz"):
            return web.Response(text="ok")
        if parts == ["version"]:
            return _json(discovery.VERSION)
        if parts in (["api"], ["apis"]):
            return self._groups(accept, core=parts == ["api"])
        if parts[:1] == ["apis"] and len(parts) == 2:
            return _optional(discovery.api_group(self.registry, parts[1]))
        if parts[:1] == ["api"] and len(parts) == 2:
            return _optional(discovery.resource_list(self.registry, "", parts[1]))
        if parts[:1] == ["apis"] and len(parts) == 3:
            return _optional(discovery.resource_list(self.registry, parts[1], parts[2]))
        if parts[:1] == ["openapi"]:
            return await self._openapi(parts[1:], accept)
        return web.Response(status=404, text="404 page not found\n")

    def _groups(self, accept: str, core: bool) -> web.Response:
        if "as=APIGroupDiscoveryList" in accept and "v=v2;" in accept.replace(" ", "") + ";":
            body = json.dumps(discovery.aggregated(self.registry, core)).encode()
            return web.Response(body=body, headers={"Content-Type": discovery.AGGREGATED, "Vary": "Accept"})
        return _json(discovery.api_versions() if core else discovery.api_groups(self.registry))

    async def _openapi(self, parts: list[str], accept: str) -> web.Response:
        if parts == ["v2"]:
            if "protobuf" in accept:
                return web.Response(body=openapi.V2_PROTOBUF, content_type=openapi.V2_PROTOBUF_TYPE)
            return _json(openapi.V2_JSON)
        if parts == ["v3"]:
            return _json(openapi.index(self.registry))
        group, version = (parts[2], parts[3]) if parts[1:2] == ["apis"] and len(parts) == 4 else ("", parts[-1])
        resources = discovery.group_versions(self.registry).get(group, {}).get(version)
        if parts[:1] != ["v3"] or not resources:
            return web.Response(status=404, text="404 page not found\n")
        body = await asyncio.to_thread(openapi.document, resources)
        return web.Response(body=body, content_type="application/json")

    # Resources -----------------------------------------------------------------------------------------

    async def _resource(self, request: web.Request, target: Target, user: User) -> web.StreamResponse:
        resource = self.registry.find(target.group or "", target.version, target.plural)
        if resource is None or not _is_place_of(resource, target):
            return web.Response(status=404, text="404 page not found\n")
        namespace = target.namespace if resource.namespaced else ""
        call = Call(resource, namespace, target.name, target.subresource, user=user.name)
        call.read(request.query, request.headers.get("User-Agent", ""))
        if target.subresource and target.subresource not in resource.subresources:
            return web.Response(status=404, text="404 page not found\n")
        if target.subresource in ("log", "token", "eviction"):
            return await self._special(request, call)
        if not _is_allowed(resource, target):
            raise errors.method_not_allowed()
        if resource.group in _REVIEW_GROUPS:
            body = await self._body(request, resource.kind)
            decode.check_kind(body, resource)
            return _json(self._reviews.review(resource.kind, user, body), 201)
        if target.verb in ("get", "list", "watch"):
            return await self._read(request, call, target.verb)
        return await self._write(request, call, target.verb)

    async def _special(self, request: web.Request, call: Call) -> web.StreamResponse:
        wanted = "GET" if call.subresource == "log" else "POST"
        if request.method != wanted:
            raise errors.method_not_allowed()
        if call.subresource == "log":
            return await self._log(request, call)
        body = await self._body(request, call.resource.kind)
        if call.subresource == "token":
            return _json(self._reviews.request_token(call, body), 201)
        self.deleter.evict(call, body)
        told = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}
        return _json(told, 201)

    async def _log(self, request: web.Request, call: Call) -> web.StreamResponse:
        pod = self._existing(call)
        container = logs.choose_container(pod, request.query)
        if not pod["spec"].get("nodeName") or self._logs_dir is None:
            return web.Response(status=204)
        logs.check_started(pod, container)
        path = self._logs_dir / pod["metadata"]["uid"] / f"{container}.log"
        lines = int(request.query["tailLines"]) if request.query.get("tailLines", "").isdigit() else None
        if request.query.get("follow") != "true":
            return web.Response(body=logs.tail(path, lines), content_type="text/plain")

        def is_over() -> bool:
            now = self.store.get(PODS, call.namespace, call.name)
            phase = (now.get("status") or {}).get("phase") if now else "Failed"
            return phase in ("Succeeded", "Failed")

        return await logs.follow(request, path, lines, is_over)

    def _existing(self, call: Call) -> Object:
        found = self.store.get(call.resource.storage, call.namespace, call.name)
        if found is None:
            raise errors.not_found(call.name, call.resource.group, call.resource.plural)
        return found

    @staticmethod
    async def _body(request: web.Request, kind: str) -> Any:
        raw = await request.read()
        media_type = request.content_type
        if media_type == protobuf.MEDIA_TYPE:
            return protobuf.decode(raw)
        if media_type == "application/yaml":
            return decode.parse_yaml(raw, kind)
        if media_type not in ("application/json", "application/octet-stream"):
            raise errors.unsupported_media_type(("application/json", "application/yaml"))
        return decode.parse_json(raw, kind)

    # Reading -------------------------------------------------------------------------------------------

    async def _read(self, request: web.Request, call: Call, verb: str) -> web.StreamResponse:
        show = self._presenter(request, call.resource)
        if verb == "get":
            return _json(show(self._existing(call)))
        query = request.query
        matches = _predicate(query, call.resource)
        if verb == "watch":
            watch = self._watch(query, call, matches, show, _is_table(request))
            return await self.watches.serve(request, watch)
        found, meta = self._page(query, call, matches)
        if _is_table(request):
            shown = [events.to_shown(call.resource, obj) for obj in found]
            return _json(tables.as_table(call.resource, shown, meta, query.get("includeObject", "")))
        as_metadata = "as=PartialObjectMetadata" in request.headers.get("Accept", "")
        resource = call.resource
        head = {"kind": resource.list_name, "apiVersion": resource.api_version}
        if as_metadata:
            head = {"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1"}
        return _json({**head, "metadata": meta, "items": [show(obj) for obj in found]})

    @staticmethod
    def _presenter(request: web.Request, resource: Resource) -> Callable[[Object], Object]:
        include = request.query.get("includeObject", "")
        if _is_table(request):
            return lambda obj: tables.as_table(
                resource, [events.to_shown(resource, obj)],
                {"resourceVersion": obj["metadata"]["resourceVersion"]}, include,
            )  # fmt: skip
        if "as=PartialObjectMetadata" in request.headers.get("Accept", ""):
            return tables.partial_metadata
        return lambda obj: events.to_shown(resource, obj)

    def _watch(
        self, query: Mapping[str, str], call: Call, matches: Predicate, show: Callable[[Object], Object],
        is_table: bool,
    ) -> Watch:  # fmt: skip
        resource = call.resource
        named: Predicate = (lambda obj: matches(obj) and obj["metadata"]["name"] == call.name) if call.name else matches

        def bookmark(obj: Object) -> Object:
            own = {"kind": resource.kind, "apiVersion": resource.api_version, **obj}
            return tables.as_table(resource, [], obj["metadata"]) if is_table else own

        watch = Watch(resource.storage, call.namespace, named, show, bookmark)
        watch.user = call.user
        watch.since = query.get("resourceVersion", "")
        watch.bookmarks = query.get("allowWatchBookmarks") in ("1", "true")
        watch.initial_events = query.get("sendInitialEvents") in ("1", "true")
        if query.get("timeoutSeconds", "").isdigit() and query["timeoutSeconds"] != "0":
            watch.timeout = float(query["timeoutSeconds"])
        return watch

    def _page(self, query: Mapping[str, str], call: Call, matches: Predicate) -> tuple[list[Object], dict[str, Any]]:
        """Objects of a list, or of one page of it, and the list's metadata.

        A later page shows the objects as they are by then, under the first page's resourceVersion: a watch from
        there tells every change since, so a client that lists in pages and then watches misses none.
        """
        resource = call.resource
        objects, version = self.store.listed(resource.storage, call.namespace)
        after = ("", "")
        if token := query.get("continue"):
            version, after = _continued(token)
            if version < self.store.floor(resource.storage):
                raise errors.expired("The provided continue parameter is too old to display a consistent list result.")
        found = [obj for obj in objects if matches(obj) and _place(obj) > after]
        meta: dict[str, Any] = {"resourceVersion": str(version)}
        limit = int(query["limit"]) if query.get("limit", "").isdigit() else 0
        if limit and len(found) > limit:
            meta["remainingItemCount"] = len(found) - limit
            found = found[:limit]
            place = json.dumps([version, *_place(found[-1])])
            meta["continue"] = base64.urlsafe_b64encode(place.encode()).decode()
        return found, meta

    # Writing -------------------------------------------------------------------------------------------

    async def _write(self, request: web.Request, call: Call, verb: str) -> web.StreamResponse:
        resource, code = call.resource, 200
        shown: Object
        if verb == "patch":
            raw = await request.read()
            obj, created = self._writer.patch(call, request.content_type, raw)
            code = 201 if created else 200
            shown = self._presenter(request, resource)(obj)
        elif verb in ("create", "update"):
            body = await self._body(request, resource.kind)
            if verb == "create":
                obj, code = self._writer.create(call, body), 201
            else:
                obj = self._writer.replace(call, body)
            shown = self._presenter(request, resource)(obj)
        else:
            sent = await self._body(request, "DeleteOptions") if request.body_exists else {}
            options = _query_options(request.query) | sent
            shown = self._delete(call, verb, options, _predicate(request.query, resource))
        headers = [("Warning", f'299 - "{_quoted(text)}"') for text in call.warnings]
        return _json(shown, code, headers)

    def _delete(self, call: Call, verb: str, options: dict[str, Any], matches: Predicate) -> Object:
        resource = call.resource
        if verb == "delete":
            obj, gone = self.deleter.delete(call, options)
            if gone and not resource.returns_deleted:
                return errors.success(call.name, resource.group, resource.plural, obj["metadata"]["uid"])
            return events.to_shown(resource, obj)
        found = [obj for obj in self.store.list(resource.storage, call.namespace) if matches(obj)]
        for obj in found:
            meta = obj["metadata"]
            one = Call(resource, meta.get("namespace", ""), meta["name"], dry_run=call.dry_run)
            self.deleter.delete(one, options)
            call.warnings = one.warnings
        meta = {"resourceVersion": str(self.store.version)}
        return {"kind": resource.list_name, "apiVersion": resource.api_version, "metadata": meta, "items": found}


def _json(body: Any, status: int = 200, headers: Any = None) -> web.Response:
    encoded = json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()
    return web.Response(body=encoded, status=status, headers=headers, content_type="application/json")


def _optional(body: dict[str, Any] | None) -> web.Response:
    return _json(body) if body else web.Response(status=404, text="404 page not found\n")


def _is_table(request: web.Request) -> bool:
    return "as=Table" in request.headers.get("Accept", "")


def _is_place_of(resource: Resource, target: Target) -> bool:
    """Whether objects of a resource can be where the URL says: in a namespace or not."""
    if resource.namespaced:
        return bool(target.namespace) or target.verb in ("list", "watch")
    return not target.namespace or target.plural == "namespaces"


def _is_allowed(resource: Resource, target: Target) -> bool:
    """Whether a method makes sense on a collection, an object or its status."""
    if target.verb not in resource.verbs or (target.subresource and target.verb in ("create", "delete")):
        return False
    return bool(target.name) != (target.verb in ("create", "deletecollection")) or target.verb in ("list", "watch")


def _predicate(query: Mapping[str, str], resource: Resource) -> Predicate:
    by_label = label_selector(query.get("labelSelector", ""))
    by_field = field_selector(query.get("fieldSelector", ""), resource.kind, resource.is_custom)
    return lambda obj: by_label(obj) and by_field(obj)


def _place(obj: Object) -> tuple[str, str]:
    return obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


def _continued(token: str) -> tuple[int, tuple[str, str]]:
    try:
        version, namespace, name = json.loads(base64.urlsafe_b64decode(token))
        return int(version), (str(namespace), str(name))
    except ValueError as error:
        raise errors.bad_request("continue key is not valid") from error


def _query_options(query: Mapping[str, str]) -> dict[str, Any]:
    """DeleteOptions that come as parameters."""
    told: dict[str, Any] = {}
    if query.get("propagationPolicy"):
        told["propagationPolicy"] = query["propagationPolicy"]
    if query.get("gracePeriodSeconds", "").isdigit():
        told["gracePeriodSeconds"] = int(query["gracePeriodSeconds"])
    if query.get("orphanDependents"):
        told["orphanDependents"] = query["orphanDependents"] == "true"
    return told


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
