"""The protocol of an image store: bytes by image id, streamed, never whole in memory."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, suppress
from typing import BinaryIO, Protocol

from kilonova.domain.errors import BadRequest, NotFound
from kilonova.domain.servers import ImageLocation


class ImageSource(Protocol):
    """What a host needs of the image service: the bytes of an image."""

    def open(self, image_id: str) -> BinaryIO:
        """The image's data from its first byte. NotFound if the store has none."""


class ImageSink(Protocol):
    """What a host needs of the image service to give it what it took of a server."""

    def has_data(self, image_id: str) -> bool:
        """Whether its bytes came already. NotFound if there is no such image any more; Unavailable."""

    def upload(self, image_id: str, data: BinaryIO) -> None:
        """Its bytes, from where ``data`` stands to its end; nothing is left of an upload that breaks off.

        NotFound if there is no such image any more; Unavailable if the service does not answer, or while
        another upload of it goes on; what else it says means that it does not take them.
        """

    def upload_from(self, image_id: str, disk: ImageLocation) -> None:
        """Its bytes are those of that snapshot, which the image service reads itself. As upload();
        BadRequest, Forbidden or NotFound where it cannot: then upload() them.
        """


class ImageStore(ImageSource, Protocol):
    name: str
    """As clients know it."""
    keeps_disks: bool
    """An image here is a disk that can be cloned if it is raw: so what can be made raw is."""

    def put(self, image_id: str, chunks: Iterable[bytes], max_size: int) -> int:
        """Store all of it or nothing; the size in bytes. TooLarge past ``max_size``."""

    def read(self, image_id: str) -> Iterator[bytes]: ...

    def delete(self, image_id: str) -> None:
        """Gone, also if it was not there."""

    def location(self, image_id: str) -> ImageLocation | None:
        """Where it can be cloned, if it is here and raw."""

    def reading(self, disk: ImageLocation) -> AbstractContextManager[BinaryIO]:
        """The bytes of a disk that is no image, but in the store's own cluster. BadRequest: it is not, or the
        store may not read it. Unavailable. Conflict at the end of the block: it went away meanwhile."""


def checked(image_id: str) -> str:
    """BadRequest unless the id is a UUID in its canonical form."""
    try:
        canonical = str(uuid.UUID(image_id)) == image_id
    except (ValueError, AttributeError, TypeError):
        canonical = False
    if not canonical:
        raise BadRequest(f"Not an image id: {image_id!r}")
    return image_id


class Stores:
    """Where images are found: the store that new ones go to, and those that keep older ones."""

    def __init__(self, store: ImageStore, *others: ImageStore) -> None:
        self.default = store
        self.all = (store, *others)

    def named(self, name: str | None) -> ImageStore | None:
        """The store of that name; None stands for the files of old."""
        return next((store for store in self.all if store.name == (name or "file")), None)

    def open(self, image_id: str) -> BinaryIO:
        for store in self.all:
            with suppress(NotFound):
                return store.open(image_id)
        raise NotFound(f"The store has no data of image {image_id}")

    def delete(self, image_id: str) -> None:
        for store in self.all:
            store.delete(image_id)
