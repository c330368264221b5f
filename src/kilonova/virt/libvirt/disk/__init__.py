"""The disks of a server: where they are, how they are made, and that they go. One file a backend.

``[libvirt] images_type`` chooses: ``qcow2``, an overlay on the host's cached image; ``raw``, a copy of it;
``rbd``, a clone of it in Ceph.
"""

from __future__ import annotations

from pathlib import Path

from kilonova.config import Config
from kilonova.virt.libvirt import secrets
from kilonova.virt.libvirt.disk.base import Backend
from kilonova.virt.libvirt.disk.qcow2 import Qcow2
from kilonova.virt.libvirt.disk.raw import Raw
from kilonova.virt.libvirt.folder import Folder
from kilonova.virt.libvirt.images import ImageCache


def backend(config: Config, folder: Folder, images: ImageCache, host: str) -> Backend:
    """``host``: this one's name."""
    match config.libvirt.images_type:
        case "qcow2":
            return Qcow2(folder, images)
        case "raw":
            return Raw(folder, images)
        case "rbd":
            # Here, because Ceph's bindings are asked for only where it is configured.
            from kilonova.rbd import Cluster
            from kilonova.virt.libvirt.disk.rbd import Rbd

            options = config.libvirt
            cluster = Cluster(Path(options.images_rbd_ceph_conf), options.rbd_user)
            secret = secrets.of_ceph(options, options.rbd_user)
            return Rbd(folder, images, cluster.pool(options.images_rbd_pool), host, secret)
