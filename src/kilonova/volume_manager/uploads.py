"""Volumes as images of the built-in image service."""

from __future__ import annotations

from typing import BinaryIO

from kilonova.cancel import Cancel
from kilonova.domain.context import RequestContext
from kilonova.domain.errors import StaleEpoch
from kilonova.domain.images import ImageStatus
from kilonova.image.service import Images

_MANAGER = RequestContext(request_id="", user_id="volume", roles=frozenset({"admin", "service"}))
"""What is copied was allowed when it was asked for."""


class ImageUploads:
    def __init__(self, images: Images) -> None:
        self._images = images

    def upload(self, image_id: str, data: BinaryIO, size: int, cancel: Cancel) -> None:
        status = self._images.show(_MANAGER, image_id).status
        if status == ImageStatus.ACTIVE:
            return
        if status == ImageStatus.SAVING:
            self._images.reset_upload(image_id)
        self._images.upload(_MANAGER, image_id, _Reader(data, cancel), size)


class _Reader:
    """The volume's bytes, as long as they are wanted."""

    def __init__(self, data: BinaryIO, cancel: Cancel) -> None:
        self._data = data
        self._cancel = cancel

    def read(self, size: int, /) -> bytes:
        if self._cancel.is_set():
            raise StaleEpoch("the volume's work moved on while it was uploaded")
        return self._data.read(size)
