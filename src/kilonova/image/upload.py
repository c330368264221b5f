"""An upload on its way to the store: counted, hashed and inspected as it streams by, a block at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Protocol

from kilonova.disk_image.tree_hash import TreeHash
from kilonova.domain.errors import BadRequest
from kilonova.domain.images import ImageData

BLOCK = 1 << 20


class Source(Protocol):
    """A client's bytes. ``read`` gives at most ``size`` of them, none at the end; what it raises means
    that the client is gone."""

    def read(self, size: int, /) -> bytes: ...


class Upload:
    """Iterate over it to have the blocks; afterwards ``data`` says what they were.

    The verdict falls before the iteration ends, so that a store that keeps all or nothing keeps nothing of
    an image that is refused. BadRequest: shorter or longer than ``expected`` bytes, or cut off.
    """

    def __init__(self, source: Source, disk_format: str, container_format: str, expected: int | None) -> None:
        # What it is made of takes a tenth of a start to load.
        from kilonova.disk_image.inspect import Inspector

        self._source = source
        self._inspector = Inspector(disk_format, container_format)
        self._expected = expected
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._sha512 = hashlib.sha512()
        self._tree = TreeHash()
        self._size = 0
        self._virtual_size = 0
        self._tree_hash = ""

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._blocks()
        finally:
            self._tree.close()

    def _blocks(self) -> Iterator[bytes]:
        while block := self._read():
            self._size += len(block)
            self._tree.update(block)
            self._md5.update(block)
            self._sha512.update(block)
            self._inspector.feed(block)
            yield block
        self._tree_hash = self._tree.hexdigest()
        if self._expected is not None and self._size != self._expected:
            raise BadRequest(f"{self._size} bytes of image data came where {self._expected} were announced")
        self._virtual_size = self._inspector.finish()

    @property
    def data(self) -> ImageData:
        return ImageData(
            size=self._size,
            virtual_size=self._virtual_size,
            checksum=self._md5.hexdigest(),
            os_hash_value=self._sha512.hexdigest(),
            tree_hash=self._tree_hash,
        )

    def _read(self) -> bytes:
        try:
            return self._source.read(BLOCK)
        except (OSError, ValueError) as error:
            raise BadRequest(f"The image data broke off after {self._size} bytes: {error}") from error
