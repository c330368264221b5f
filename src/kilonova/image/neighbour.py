"""The image service as a host sees it that is in the same process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from kilonova.domain.context import RequestContext
from kilonova.domain.errors import Conflict, Unavailable
from kilonova.domain.servers import ImageLocation
from kilonova.image.base import ImageSource
from kilonova.image.service import Images

_HOST = RequestContext(request_id="", user_id="", roles=frozenset({"service"}))


class Neighbour:
    """An ImageSource and an ImageSink."""

    def __init__(self, images: Images, store: ImageSource) -> None:
        self._images = images
        self._store = store

    def open(self, image_id: str) -> BinaryIO:
        return self._store.open(image_id)

    def has_data(self, image_id: str) -> bool:
        return self._images.show(_HOST, image_id).has_data

    def upload(self, image_id: str, data: BinaryIO) -> None:
        with _another_time():
            self._images.upload(_HOST, image_id, data)

    def upload_from(self, image_id: str, disk: ImageLocation) -> None:
        with _another_time():
            self._images.upload_from(_HOST, image_id, disk)


@contextmanager
def _another_time() -> Iterator[None]:
    try:
        yield
    except Conflict as error:
        raise Unavailable(error.message) from error
