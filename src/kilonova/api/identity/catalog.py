"""/v3/services, /v3/endpoints, /v3/regions: the catalog as Keystone's managers see it, read-only"""

from __future__ import annotations

from typing import Any

from kilonova.api.http import Reply, Request
from kilonova.api.identity.state import State, found, href, listing
from kilonova.domain.errors import Forbidden

Item = dict[str, Any]


def _services(state: State, request: Request) -> list[Item]:
    return [
        {
            "id": service.id,
            "type": service.type,
            "name": service.name,
            "description": "",
            "enabled": True,
            "links": {"self": href(request, "services", service.id)},
        }
        for service in state.catalog.services
    ]


def _endpoints(state: State, request: Request) -> list[Item]:
    return [
        {
            "id": endpoint["id"],
            "interface": endpoint["interface"],
            "region": endpoint["region"],
            "region_id": endpoint["region_id"],
            "service_id": service["id"],
            "url": endpoint["url"],
            "enabled": True,
            "links": {"self": href(request, "endpoints", endpoint["id"])},
        }
        for service in state.catalog.in_token(request.raw.prefix)
        for endpoint in service["endpoints"]
    ]


def _regions(state: State, request: Request) -> list[Item]:
    region = state.catalog.region
    return [
        {
            "id": region,
            "description": "",
            "parent_region_id": None,
            "links": {"self": href(request, "regions", region)},
        }
    ]


def _filtered(request: Request, items: list[Item], *names: str) -> list[Item]:
    for name in names:
        if (value := request.query(name)) is not None:
            items = [item for item in items if item[name] == value]
    return items


def _one(items: list[Item], kind: str, item_id: str) -> Item:
    return found(next((item for item in items if item["id"] == item_id), None), kind, item_id)


def services(state: State, request: Request) -> Reply:
    return listing(request, "services", _filtered(request, _services(state, request), "type", "name"))


def service(state: State, request: Request, service_id: str) -> Reply:
    return Reply(200, {"service": _one(_services(state, request), "service", service_id)})


def endpoints(state: State, request: Request) -> Reply:
    items = _filtered(request, _endpoints(state, request), "interface", "service_id", "region_id")
    return listing(request, "endpoints", items)


def endpoint(state: State, request: Request, endpoint_id: str) -> Reply:
    return Reply(200, {"endpoint": _one(_endpoints(state, request), "endpoint", endpoint_id)})


def regions(state: State, request: Request) -> Reply:
    return listing(request, "regions", _regions(state, request))


def region(state: State, request: Request, region_id: str) -> Reply:
    return Reply(200, {"region": _one(_regions(state, request), "region", region_id)})


def read_only(_state: State, _request: Request, **_: str) -> Reply:
    raise Forbidden(
        "The catalog is what this deployment serves: it is configured, not written through the API."
    )
