"""POST /v2/images/{image_id}/locations: a host says where in Ceph the disk is that the image is to hold.

Glance would keep the location itself; here what is there is read into the store, so that the image needs
nothing that is a server's.
"""

from __future__ import annotations

from typing import Any

import msgspec

from kilonova.api.http import Reply, Request
from kilonova.image import locations
from kilonova.image.service import Images


class NewLocation(msgspec.Struct, frozen=True):
    url: str
    validation_data: dict[str, Any] = {}
    """Hashes that somebody believes: they are found out here."""


def create(images: Images, request: Request, image_id: str) -> Reply:
    """202, as Glance's, when all of it is there: a client that does not wait asks for the image's status."""
    location = locations.from_url(request.json(NewLocation).url)
    images.upload_from(request.context, image_id, location)
    return Reply(202)
