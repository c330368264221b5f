"""Every URL with the project's id and without it, as it is since 3.67."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from kilonova.api.http import Handler, Reply, Request, Route
from kilonova.api.volume.state import VolumeAPI
from kilonova.domain.errors import BadRequest


def both(routes: Iterable[Route]) -> list[Route]:
    """``/volumes`` and ``/{project_id}/volumes``"""
    found = []
    for route in routes:
        found += [route, replace(route, path="/{project_id}" + route.path, handler=_checked(route.handler))]
    return found


def _checked(handler: Handler) -> Handler:
    def handle(api: VolumeAPI, request: Request, project_id: str, **parameters: str) -> Reply:
        if project_id != request.context.project_id:
            raise BadRequest("Malformed request url")
        return handler(api, request, **parameters)

    return handle
