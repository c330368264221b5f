"""The protocol of an image store: bytes by image id, streamed, never whole in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import BinaryIO, Protocol


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


class ImageStore(ImageSource, Protocol):
    def put(self, image_id: str, chunks: Iterable[bytes], max_size: int) -> int:
        """Store all of it or nothing; the size in bytes. TooLarge past ``max_size``."""

    def read(self, image_id: str) -> Iterator[bytes]: ...

    def delete(self, image_id: str) -> None:
        """Gone, also if it was not there."""
