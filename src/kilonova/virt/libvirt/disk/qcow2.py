"""``qcow2``: an overlay on the host's cached image, made in the same time whatever the image's size."""

from __future__ import annotations

from pathlib import Path

from kilonova.cancel import Cancel
from kilonova.disk_image import qemu_img
from kilonova.domain.servers import ImageRef
from kilonova.virt.libvirt.disk.files import Files
from kilonova.virt.libvirt.images import BOOTABLE_FORMATS


class Qcow2(Files):
    format = "qcow2"
    made_of_image = "overlay"

    def _of_image(self, path: Path, image: ImageRef, size: int, cancel: Cancel) -> None:
        base = self._images.path(image)
        qemu_img.create_overlay(path, base=base, base_format=BOOTABLE_FORMATS[image.disk_format], size=size)

    def _blank(self, path: Path, size: int) -> None:
        qemu_img.create_empty(path, size=size)
