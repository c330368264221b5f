"""The version documents, which clients read first: GET /volume and GET /volume/v3. No token needed."""

from __future__ import annotations

from typing import Any

from kilonova.api.http import Reply, Request, Route
from kilonova.api.microversions import text
from kilonova.api.volume import microversions

ID = "v3.0"


def versions(_api: Any, request: Request) -> Reply:
    """GET /volume"""
    return Reply(300, {"versions": [_document(f"{request.url}/v3/")]})


def version(_api: Any, request: Request) -> Reply:
    """GET /volume/v3"""
    return Reply(body={"versions": [_document(f"{request.url}/")]})


def _document(href: str) -> dict[str, Any]:
    return {
        "id": ID,
        "status": "CURRENT",
        "version": text(microversions.MAXIMUM),
        "min_version": text(microversions.MINIMUM),
        "updated": "2023-08-31T00:00:00Z",
        "links": [
            {"rel": "describedby", "type": "text/html", "href": "https://docs.openstack.org/"},
            {"rel": "self", "href": href},
        ],
        "media-types": [
            {"base": "application/json", "type": "application/vnd.openstack.volume+json;version=3"}
        ],
    }


ROUTES = [Route("GET", "/", version, public=True)]
