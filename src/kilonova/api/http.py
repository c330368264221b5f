"""What every API of ours is made of: a Service is a prefix, a table of routes and a form for its faults.

A handler is a plain function ``handler(service_state, request, **path_parameters) -> Reply``. It raises the
errors of domain.errors; the Service turns them into its API's fault format. Nothing else knows Falcon.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from typing import Any

import falcon

from kilonova import log
from kilonova.api import bodies
from kilonova.api.edge import Edge, send
from kilonova.api.idempotency import Once
from kilonova.api.reply import Reply
from kilonova.api.service import Authenticate, Durably, Handler, Request, Route, Service, Version

__all__ = ["Authenticate", "Handler", "Reply", "Request", "Route", "Service", "Version", "application"]

_log = log.get("api")
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
"""Each path answers all of them itself: what Falcon says by default that it allows is not so."""


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
        edge = Edge(service, {}, authenticate, once, durably)
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
    edge = Edge(service, methods, authenticate, once, durably)
    verbs = {f"on_{method.lower()}": _responder(edge, method) for method in methods}
    for method in _METHODS:
        verbs.setdefault(f"on_{method.lower()}", edge.not_allowed)
    return type("Resource", (), {k: staticmethod(v) for k, v in verbs.items()})()


def _responder(edge: Edge, method: str) -> Callable[..., None]:
    def respond(req: falcon.Request, resp: falcon.Response, **parameters: str) -> None:
        edge.handle(method, req, resp, parameters)

    return respond


def _unexpected(req: falcon.Request, resp: falcon.Response, error: Exception, _params: Any) -> None:
    """What went wrong outside every service: an unknown prefix, or a request Falcon could not read."""
    status = error.status_code if isinstance(error, falcon.HTTPError) else 500
    if status == 500:
        _log.error("edge_failed", path=req.path, exc_info=error)
    send(
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
