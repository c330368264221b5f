"""The disks of a server: where they are, how they are made, and that they go. One file a backend.

``[libvirt] images_type`` chooses: ``qcow2``, an overlay on the host's cached image; ``raw``, a copy of it.
"""

from __future__ import annotations

from collections.abc import Callable

from kilonova.config import Config
from kilonova.virt.libvirt.disk.base import Backend
from kilonova.virt.libvirt.disk.qcow2 import Qcow2
from kilonova.virt.libvirt.disk.raw import Raw
from kilonova.virt.libvirt.folder import Folder
from kilonova.virt.libvirt.images import ImageCache

_KINDS: dict[str, Callable[[Folder, ImageCache], Backend]] = {"qcow2": Qcow2, "raw": Raw}


def backend(config: Config, folder: Folder, images: ImageCache) -> Backend:
    return _KINDS[config.libvirt.images_type](folder, images)
