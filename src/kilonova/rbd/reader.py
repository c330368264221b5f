"""An RBD image as a file to read."""

from __future__ import annotations

import io
from typing import BinaryIO, cast

from kilonova.rbd import bindings

_BUFFER = 4 << 20


class _Reader(io.RawIOBase):
    def __init__(self, image: bindings.RawImage, name: str) -> None:
        self._image = image
        self._name = name
        self._at = 0
        self._size = image.size()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        length = max(0, min(len(buffer), self._size - self._at))
        if not length:
            return 0
        with bindings.translated(self._name):
            data = self._image.read(self._at, length)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._image.close()
        super().close()


def reader(image: bindings.RawImage, name: str) -> BinaryIO:
    """Closing it closes the image."""
    return cast(BinaryIO, io.BufferedReader(_Reader(image, name), _BUFFER))
