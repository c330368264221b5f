"""The edge: where an HTTP request becomes a handler's call, and an error becomes a fault. One a path."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Mapping
from typing import Any

import falcon

from kilonova import log, metrics
from kilonova.api import idempotency
from kilonova.api.idempotency import Once
from kilonova.api.reply import Reply, encoded
from kilonova.api.service import Authenticate, Durably, Request, Route, Service
from kilonova.domain.context import RequestContext
from kilonova.domain.errors import BadRequest, KilonovaError, NotFound, Unauthorized
from kilonova.store.repeat import repeat

_OTHER = "other"
"""The label of what has no route: clients make up paths and methods without end."""
_WHERE = ("service", "method", "route")
_requests = metrics.Counter("http_requests", "Requests, by what was answered.", (*_WHERE, "status"))
_request_seconds = metrics.Histogram("http_request_seconds", "From a request's head to its answer.", _WHERE)

_READS = frozenset({"GET", "HEAD"})
_log = log.get("api")


class Edge:
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
                send(resp, reply)
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
        resp.set_header("Allow", ", ".join(self._methods))
        self._without_route(req, resp, 405, f"The method {req.method} is not allowed here")

    def missing(self, req: falcon.Request, resp: falcon.Response, **_: Any) -> None:
        """404, but for those alone who may know what there is."""
        self._without_route(req, resp, 404, "The resource could not be found.", known=True)

    def _without_route(
        self,
        req: falcon.Request,
        resp: falcon.Response,
        status: int,
        message: str,
        known: bool = False,
    ) -> None:
        """``known``: who is not gets 401 instead."""
        request = self._request(req)
        began = time.perf_counter()
        with log.bound(request_id=request.request_id):
            try:
                if known:
                    request._context = self._context(req, request.request_id)
                self._fail(request, resp, status, message, None)
            except KilonovaError as error:
                self._fail(request, resp, error.status, error.message, error)
            self._finish(request, resp)
            self._count(_OTHER, None, resp)
            self._note(req.method, request, resp, time.perf_counter() - began)

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
        send(resp, Reply(status, self._service.fault(request, status, message, error)))
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


def send(resp: falcon.Response, reply: Reply) -> None:
    """Write the reply into Falcon's."""
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
