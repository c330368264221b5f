"""An image as the bytes of a disk, verified: its format is what it says, and nothing else is ever tried."""

from __future__ import annotations

from typing import BinaryIO

from kilonova.cancel import Cancel
from kilonova.disk_image.transfer import ImageSource, transfer
from kilonova.domain.errors import BuildFailed, VolumeFailed
from kilonova.domain.servers import ImageRef

GIB = 1 << 30
RAW = frozenset({"raw", "iso"})
CONVERTED = frozenset({"qcow2"})


def fetch(image: ImageRef, images: ImageSource, size_gb: int, target: BinaryIO, cancel: Cancel) -> None:
    """``target``, which is empty, holds the image as it was uploaded. VolumeFailed: it is not what it says,
    cannot be used, or is larger than the volume. Unavailable, StaleEpoch.
    """
    if image.disk_format not in RAW | CONVERTED or image.container_format != "bare":
        raise VolumeFailed(
            f"image {image.id}: a volume cannot be made of the format {image.disk_format!r}"
            f" in {image.container_format!r}"
        )
    for size in (image.size if image.disk_format in RAW else 0, image.virtual_size or 0):
        _check(image, size, size_gb)
    try:
        size = transfer(image, images, target, cancel)
    except BuildFailed as error:
        raise VolumeFailed(error.message) from error
    _check(image, size, size_gb)


def _check(image: ImageRef, size: int, size_gb: int) -> None:
    if size > size_gb * GIB:
        raise VolumeFailed(
            f"image {image.id} has a disk of {size / GIB:.2f} GiB, the volume is to have {size_gb} GiB"
        )
