"""What this image service can do beyond the basics: nothing, and it says so."""

from __future__ import annotations

from kilonova.api.http import Reply, Request
from kilonova.domain.errors import NotFound
from kilonova.image.service import Images


def import_methods(_images: Images, _request: Request) -> Reply:
    """Clients ask this before they import; with no method here they upload."""
    methods = {"description": "Import methods available.", "type": "array", "value": []}
    return Reply(body={"import-methods": methods})


def stores(_images: Images, _request: Request) -> Reply:
    raise NotFound("Multi backend is not supported at this site.")
