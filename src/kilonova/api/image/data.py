"""/v2/images/{image_id}/file: the bytes, up and down, as streams."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO

from kilonova.api import bodies
from kilonova.api.http import Reply, Request
from kilonova.domain.errors import BadRequest, UnsupportedMedia
from kilonova.domain.images import Image
from kilonova.image.service import Images

BLOCK = 1 << 18
_OCTETS = "application/octet-stream"


def upload(images: Images, request: Request, image_id: str) -> Reply:
    kind = (request.raw.content_type or "").split(";")[0].strip()
    if kind != _OCTETS:
        raise UnsupportedMedia(f"Invalid content type {kind}: image data is {_OCTETS}")
    images.upload(request.context, image_id, bodies.of(request.raw), _announced_size(request))
    return Reply(204)


def download(images: Images, request: Request, image_id: str) -> Reply:
    """All of it, or the one range of bytes that ``Range`` asks for; 204 while there is none."""
    image, file = images.download(request.context, image_id)
    if file is None:
        return Reply(204)
    try:
        size = image.size or 0
        asked = _range(request.raw.get_header("Range"), size)
        if asked is not None and not asked:
            file.close()
            return Reply(416, b"", {"Content-Range": f"bytes */{size}"}, _OCTETS)
        part = asked or range(size)
        file.seek(part.start)
    except BaseException:
        file.close()
        raise
    status = 200 if asked is None else 206
    return Reply(status, _blocks(file, len(part)), _headers(image, size, asked), _OCTETS)


def _announced_size(request: Request) -> int | None:
    """Clients that send in chunks may say the size in a header of its own."""
    given = request.raw.get_header("X-OpenStack-Image-Size")
    length = request.raw.content_length
    if given is None:
        return length
    if not re.fullmatch(r"[0-9]{1,18}", given):
        raise BadRequest("Invalid image size in request headers.")
    if length is not None and length != int(given):
        raise BadRequest(f"X-OpenStack-Image-Size says {given} bytes and Content-Length {length}.")
    return int(given)


def _range(header: str | None, size: int) -> range | None:
    """The bytes asked for; None for all of them, an empty range if there are none such.

    Like any server may, it ignores what it does not understand, and several ranges at once (RFC 9110, 14.2).
    """
    match = re.fullmatch(r"bytes=([0-9]{0,18})-([0-9]{0,18})", header or "")
    if match is None or not any(match.groups()):
        return None
    first, last = match.groups()
    if not first:
        return range(max(0, size - int(last)), size)
    if last and int(last) < int(first):
        return None
    return range(int(first), min(int(last) + 1, size) if last else size)


def _headers(image: Image, size: int, part: range | None) -> dict[str, str]:
    headers = {"Content-Length": str(size if part is None else len(part)), "Accept-Ranges": "bytes"}
    if part is not None:
        headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{size}"
    elif image.checksum:
        headers["Content-MD5"] = image.checksum
    return headers


class _blocks:
    """``length`` bytes of a file from where it stands."""

    def __init__(self, file: BinaryIO, length: int) -> None:
        self._file = file
        self._left = length

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        block = self._file.read(min(BLOCK, self._left))
        if not block:
            self.close()
            raise StopIteration
        self._left -= len(block)
        return block

    def close(self) -> None:
        self._file.close()
