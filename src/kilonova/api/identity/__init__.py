"""The identity API: Keystone v3 under ``/identity``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from kilonova.api.http import Request, Service
from kilonova.api.identity.routes import ROUTES
from kilonova.api.identity.state import State
from kilonova.domain.errors import KilonovaError
from kilonova.identity.catalog import DEFAULT_SERVICES, Catalog, CatalogService
from kilonova.identity.service import Identity


def service(identity: Identity, services: Sequence[CatalogService] = DEFAULT_SERVICES) -> Service:
    """``services`` is what the catalog offers; its region is the configuration's."""
    return Service(
        name="identity",
        prefix="/identity",
        routes=ROUTES,
        state=State(identity, Catalog(services, identity.config.region)),
        fault=_fault,
    )


def _fault(_request: Request, status: int, message: str, _error: KilonovaError | None) -> Mapping[str, Any]:
    return {"error": {"code": status, "message": message, "title": HTTPStatus(status).phrase}}
