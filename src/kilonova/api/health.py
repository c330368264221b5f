"""/healthz and /readyz beside the APIs, for load balancers; /metrics if the configuration wants it there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from kilonova.api.http import Reply, Request, Route, Service
from kilonova.domain.errors import KilonovaError
from kilonova.monitoring.page import Page
from kilonova.monitoring.watch import Watch


def services(watch: Watch) -> list[Service]:
    """Without the reasons why something is not ready: they name hosts, and everybody may ask."""
    pages = {"/healthz": watch.alive, "/readyz": lambda: watch.ready(reasons=False)}
    if watch.metrics_on_api:
        pages["/metrics"] = watch.metrics
    return [_service(path, page) for path, page in pages.items()]


def _service(path: str, page: Callable[[], Page]) -> Service:
    def show(_state: None, _request: Request) -> Reply:
        status, content_type, body = page()
        return Reply(status, body, content_type=content_type)

    routes = [Route(method, "", show, public=True, quiet=True) for method in ("GET", "HEAD")]
    return Service(name="monitoring", prefix=path, routes=routes, state=None, fault=_fault)


def _fault(_request: Request, status: int, message: str, _error: KilonovaError | None) -> Mapping[str, Any]:
    return {"error": {"code": status, "message": message}}
