"""What every API of ours is made of: a Service is a prefix, a table of routes and a form for its faults.

A handler is a plain function ``handler(service_state, request, **path_parameters) -> Reply``. It raises the
errors of domain.errors; the Service turns them into its API's fault format. Nothing else knows Falcon.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import falcon
import msgspec

from kilonova import log, metrics
from kilonova.api import bodies, idempotency
from kilonova.api.idempotency import Once
from kilonova.api.reply import Reply, encoded
from kilonova.domain import codec
from kilonova.domain.context import RequestContext
from kilonova.domain.errors import (
    BadRequest,
    KilonovaError,
    NotFound,
    TooLarge,
    Unauthorized,
    UnsupportedMedia,
)
from kilonova.store.repeat import repeat

__all__ = ["Authenticate", "Handler", "Reply", "Request", "Route", "Service", "Version", "application"]

MAX_BODY = 114_688
"""Bytes of a JSON body: Nova's osapi_max_request_body_size."""

_OTHER = "other"
"""The label of what has no route: clients make up paths and methods without end."""
_WHERE = ("service", "method", "route")
_requests = metrics.Counter("http_requests", "Requests, by what was answered.", (*_WHERE, "status"))
_request_seconds = metrics.Histogram("http_request_seconds", "From a request's head to its answer.", _WHERE)

_READS = frozenset({"GET", "HEAD"})

T = TypeVar("T")
Version = tuple[int, int]
_log = log.get("api")


@dataclass(slots=True)
class Request:
    """One request as a handler sees it."""

    raw: falcon.Request
    request_id: str
    version: Version = (0, 0)
    """The negotiated microversion; (0, 0) where the API has none."""
    _context: RequestContext | None = None
    _body: bytes | None = None

    @property
    def context(self) -> RequestContext:
        assert self._context is not None, "route without authentication asked for its context"
        return self._context

    @property
    def url(self) -> str:
        """The service's own root as the client reached it, for links: ``http://host:port/prefix``."""
        return str(self.raw.context.root)

    def at_least(self, major: int, minor: int) -> bool:
        return self.version >= (major, minor)

    def query(self, name: str) -> str | None:
        """The last value of a query parameter."""
        values = self.query_all(name)
        return values[-1] if values else None

    def query_all(self, name: str) -> list[str]:
        value = self.raw.params.get(name)
        if value is None:
            return []
        return value if isinstance(value, list) else [value]

    def json(self, kind: type[T], content_types: Sequence[str] = ("application/json",)) -> T:
        """The body as ``kind``. BadRequest says which field is wrong; TooLarge past MAX_BODY."""
        try:
            return codec.from_json(self.body(content_types), kind)
        except msgspec.ValidationError as error:
            raise BadRequest(f"Invalid input: {error}") from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadRequest("Malformed request body: it is not valid JSON") from error

    def body(self, content_types: Sequence[str] = ("application/json",)) -> bytes:
        """All of it. UnsupportedMedia if it is none of ``content_types``; the first one is the default."""
        body = self.any_body()
        kind = (self.raw.content_type or content_types[0]).split(";")[0].strip()
        if body and kind not in content_types:
            raise UnsupportedMedia(f"Unsupported Content-Type: {kind}")
        return body

    def any_body(self) -> bytes:
        """All of it, whatever it is said to be."""
        if self._body is None:
            self._body = self._read_body()
        return self._body

    def _read_body(self) -> bytes:
        length = self.raw.content_length
        if length is not None and length > MAX_BODY:
            raise TooLarge(f"Request body is larger than {MAX_BODY} bytes")
        try:
            data = bodies.of(self.raw).read(MAX_BODY + 1)
        except (OSError, ValueError) as error:
            raise BadRequest(f"Malformed request body: {error}") from error
        if len(data) > MAX_BODY:
            raise TooLarge(f"Request body is larger than {MAX_BODY} bytes")
        return data


Handler = Callable[..., Reply]


@dataclass(frozen=True, slots=True)
class Route:
    """One row of a service's table. Several rows may share method and path with other microversions;
    a request outside all of them gets 404, as Nova answers."""

    method: str
    path: str
    handler: Handler
    since: Version | None = None
    until: Version | None = None
    public: bool = False
    """Served without a token."""
    streamed: bool = False
    """Reads its body as it comes, so that it cannot be run again; what of it is durable, it says itself."""
    creates: bool = False
    """Makes something, by writes to the database alone: takes an Idempotency-Key."""
    quiet: bool = False
    """Asked every few seconds by programs: no line in the log."""

    def serves(self, version: Version) -> bool:
        return (self.since is None or version >= self.since) and (self.until is None or version <= self.until)


@dataclass(frozen=True, kw_only=True)
class Service:
    """One API under one prefix. ``state`` is the handlers' first argument."""

    name: str
    prefix: str
    routes: Sequence[Route]
    state: Any
    fault: Callable[[Request, int, str, KilonovaError | None], Mapping[str, Any]]
    """(request, status, message, error) → the JSON body of a fault."""
    negotiate: Callable[[falcon.Request], Version] | None = None
    decorate: Callable[[Request, falcon.Response], None] | None = None
    """Headers that every answer of this API carries."""


Authenticate = Callable[[str, str], RequestContext]
"""(token, request id) → context; raises Unauthorized."""


Durably = Callable[[], AbstractContextManager[None]]
"""Around what changes the database: it is on the disk before it is answered (Database.durably)."""


def application(
    services: Iterable[Service],
    authenticate: Authenticate,
    once: Once | None = None,
    durably: Durably = nullcontext,
) -> falcon.App[Any, Any]:
    """One WSGI application of all services. Without ``once`` an Idempotency-Key means nothing."""
    app: falcon.App[Any, Any] = falcon.App(request_type=_FalconRequest, middleware=[bodies.Drain()])
    app.req_options.strip_url_path_trailing_slash = True
    app.req_options.auto_parse_qs_csv = False
    app.req_options.keep_blank_qs_values = True
    app.add_error_handler(Exception, _unexpected)
    app.add_error_handler(falcon.HTTPError, _unexpected)
    for service in services:
        by_path: dict[str, dict[str, list[Route]]] = {}
        for route in service.routes:
            by_path.setdefault(route.path, {}).setdefault(route.method, []).append(route)
        for path, methods in by_path.items():
            resource = _resource(service, methods, authenticate, once, durably)
            app.add_route((service.prefix + path).rstrip("/") or "/", resource)
        edge = _Edge(service, {}, authenticate, once, durably)
        app.add_sink(edge.missing, re.compile(re.escape(service.prefix) + r"(/|$)"))
    return app


class _FalconRequest(falcon.Request):
    """A request with a body that Falcon must not parse by itself."""

    __slots__ = ()


def _resource(
    service: Service,
    methods: Mapping[str, list[Route]],
    authenticate: Authenticate,
    once: Once | None,
    durably: Durably,
) -> Any:
    """A Falcon resource whose on_get, on_post, … all lead to the same edge."""
    edge = _Edge(service, methods, authenticate, once, durably)
    verbs = {f"on_{method.lower()}": _responder(edge, method) for method in methods}
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"):
        verbs.setdefault(f"on_{method.lower()}", edge.not_allowed)
    return type("Resource", (), {k: staticmethod(v) for k, v in verbs.items()})()


def _responder(edge: _Edge, method: str) -> Callable[..., None]:
    def respond(req: falcon.Request, resp: falcon.Response, **parameters: str) -> None:
        edge.handle(method, req, resp, parameters)

    return respond


class _Edge:
    """Where an HTTP request becomes a handler's call, and an error becomes a fault."""

    def __init__(
        self,
        service: Service,
        methods: Mapping[str, list[Route]],
        authenticate: Authenticate,
        once: Once | None,
        durably: Durably,
    ) -> None:
        self._service = service
        self._methods = methods
        self._authenticate = authenticate
        self._once = once
        self._durably = durably

    def handle(
        self, method: str, req: falcon.Request, resp: falcon.Response, parameters: dict[str, str]
    ) -> None:
        request = self._request(req)
        began = time.perf_counter()
        route = None
        with log.bound(request_id=request.request_id):
            try:
                if self._service.negotiate is not None:
                    request.version = self._service.negotiate(req)
                route = self._route(method, request)
                _refuse_nul(req, parameters)
                if route.streamed:
                    reply = self._run(route, request, parameters)
                else:
                    reply = repeat(self._run, route, request, parameters)
                _send(resp, reply)
            except KilonovaError as error:
                self._fail(request, resp, error.status, error.message, error)
            except Exception:  # noqa: BLE001 - the edge: the client gets a 500, the log the traceback
                _log.exception("request_failed", method=method, path=req.path)
                self._fail(request, resp, 500, "Unexpected API Error. The log has the details.", None)
            self._finish(request, resp)
            seconds = time.perf_counter() - began
            self._count(method, route, resp, seconds)
            if route is None or not route.quiet:
                self._note(method, request, resp, seconds)

    def _run(self, route: Route, request: Request, parameters: dict[str, str]) -> Reply:
        if not route.public:
            request._context = self._context(request.raw, request.request_id)
        if route.creates and self._once is not None:
            key = request.raw.get_header(idempotency.HEADER)
            if key is not None:
                return self._do_once(self._once, key, route, request, parameters)
        if route.method in _READS or route.streamed:
            return route.handler(self._service.state, request, **parameters)
        with self._durably():
            return route.handler(self._service.state, request, **parameters)

    def _do_once(
        self, once: Once, key: str, route: Route, request: Request, parameters: dict[str, str]
    ) -> Reply:
        raw = request.raw
        what = idempotency.what(request.any_body(), raw.query_string, request.version)
        asked = idempotency.Asked(request.context, route.method, raw.path, what)
        return once.answer(key, asked, lambda: route.handler(self._service.state, request, **parameters))

    def not_allowed(self, req: falcon.Request, resp: falcon.Response, **_: str) -> None:
        request = self._request(req)
        resp.set_header("Allow", ", ".join(self._methods))
        self._fail(request, resp, 405, f"The method {req.method} is not allowed here", None)
        self._finish(request, resp)
        self._count(_OTHER, None, resp)

    def missing(self, req: falcon.Request, resp: falcon.Response, **_: Any) -> None:
        request = self._request(req)
        try:
            self._context(req, request.request_id)
            self._fail(request, resp, 404, "The resource could not be found.", None)
        except Unauthorized as error:
            self._fail(request, resp, 401, error.message, error)
        self._finish(request, resp)
        self._count(_OTHER, None, resp)

    def _request(self, req: falcon.Request) -> Request:
        req.context.root = f"{req.prefix}{self._service.prefix}"
        given = req.get_header("X-OpenStack-Request-ID") or ""
        request_id = given if _REQUEST_ID.fullmatch(given) else f"req-{uuid.uuid4()}"
        return Request(raw=req, request_id=request_id)

    def _route(self, method: str, request: Request) -> Route:
        for route in self._methods[method]:
            if route.serves(request.version):
                return route
        raise NotFound("The resource could not be found.")

    def _context(self, req: falcon.Request, request_id: str) -> RequestContext:
        token = req.get_header("X-Auth-Token")
        if not token:
            raise Unauthorized("The request you have made requires authentication.")
        return self._authenticate(token, request_id)

    def _fail(
        self, request: Request, resp: falcon.Response, status: int, message: str, error: KilonovaError | None
    ) -> None:
        _send(resp, Reply(status, self._service.fault(request, status, message, error)))
        if status == 503:
            resp.set_header("Retry-After", "1")
        if status == 401:
            resp.set_header("WWW-Authenticate", f'Keystone uri="{request.raw.prefix}/identity"')

    def _note(self, method: str, request: Request, resp: falcon.Response, seconds: float) -> None:
        """One line a request, by which everything else with its request id is found."""
        known = request._context
        _log.info(
            "request",
            method=method,
            path=request.raw.path,
            status=resp.status_code,
            ms=round(seconds * 1000, 1),
            user=known.user_id if known else None,
            project=known.project_id if known else None,
        )

    def _count(self, method: str, route: Route | None, resp: falcon.Response, seconds: float = 0.0) -> None:
        where = self._service.name, method, self._service.prefix + route.path if route is not None else _OTHER
        _requests.add(*where, str(resp.status_code))
        if route is not None:
            _request_seconds.observe(seconds, *where)

    def _finish(self, request: Request, resp: falcon.Response) -> None:
        resp.set_header("X-OpenStack-Request-ID", request.request_id)
        if self._service.decorate is not None:
            self._service.decorate(request, resp)


def _refuse_nul(req: falcon.Request, parameters: Mapping[str, str]) -> None:
    """NUL is in no id, and not every database can look for it."""
    if any("\0" in value for name, value in parameters.items() if name.endswith("_id")):
        raise NotFound("The resource could not be found.")
    if "%00" in req.query_string:
        raise BadRequest("Invalid input: the query has a NUL character")


_REQUEST_ID = re.compile(r"req-[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")


def _send(resp: falcon.Response, reply: Reply) -> None:
    resp.status = falcon.code_to_http_status(reply.status)
    for name, value in reply.headers.items():
        resp.set_header(name, value)
    body = encoded(reply).body
    if body is None:
        return
    resp.content_type = reply.content_type
    if isinstance(body, bytes):
        resp.data = body
    else:
        resp.stream = body


def _unexpected(req: falcon.Request, resp: falcon.Response, error: Exception, _params: Any) -> None:
    """What went wrong outside every service: an unknown prefix, or a request Falcon could not read."""
    status = error.status_code if isinstance(error, falcon.HTTPError) else 500
    if status == 500:
        _log.error("edge_failed", path=req.path, exc_info=error)
    _send(
        resp,
        Reply(
            status,
            {
                "error": {
                    "code": status,
                    "message": "The resource could not be found."
                    if status == 404
                    else "The request could not be served.",
                }
            },
        ),
    )
