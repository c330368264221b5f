"""What this image service can do beyond the basics."""

from __future__ import annotations

from kilonova.api.http import Reply, Request
from kilonova.domain.errors import NotFound
from kilonova.image.service import Images


def import_methods(_images: Images, _request: Request) -> Reply:
    """Clients ask this before they import; with no method here they upload."""
    methods = {"description": "Import methods available.", "type": "array", "value": []}
    return Reply(body={"import-methods": methods})


def stores(images: Images, _request: Request) -> Reply:
    """Those that images may be in; the default is where new ones go. NotFound where there is but one."""
    if len(images.stores.all) == 1:
        raise NotFound("Multi backend is not supported at this site.")
    found: list[dict[str, str]] = [{"id": store.name} for store in images.stores.all]
    found[0]["default"] = "true"
    return Reply(body={"stores": found})
