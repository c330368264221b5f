"""Where something is in Ceph, as Glance's clients write it: ``rbd://fsid/pool/image/snapshot``."""

from __future__ import annotations

from urllib.parse import quote, unquote

from kilonova.domain.errors import BadRequest
from kilonova.domain.servers import ImageLocation

_SCHEME = "rbd://"


def to_url(location: ImageLocation) -> str:
    parts = (location.fsid, location.pool, location.image, location.snapshot)
    return _SCHEME + "/".join(quote(part, safe="") for part in parts)


def from_url(url: str) -> ImageLocation:
    """BadRequest: it is none."""
    parts = [unquote(part) for part in url.removeprefix(_SCHEME).split("/")]
    if not url.startswith(_SCHEME) or len(parts) != 4 or not all(parts) or "\0" in "".join(parts):
        raise BadRequest(f"Not a location of an image: {url[:200]!r}")
    fsid, pool, image, snapshot = parts
    return ImageLocation(fsid=fsid, pool=pool, image=image, snapshot=snapshot)
