"""Until there is a disk to boot from, of images of three sizes full of data that the host has already: by
copy, by qcow2 overlay, by RBD clone.

``KILONOVA_BENCH_IMAGE_MIB`` names other sizes (``64,128,256``) for a machine with less time or space.
"""

from __future__ import annotations

import os
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from statistics import median

from msgspec import structs
from tests.ceph import USER, Ceph, installed

from bench.figure import Figure
from kilonova.cancel import Cancel
from kilonova.config import Config, Libvirt
from kilonova.domain.servers import BuildSpec, Flavor, ImageRef
from kilonova.image.rbd import RbdStore
from kilonova.rbd.cluster import Cluster
from kilonova.virt.libvirt import disk
from kilonova.virt.libvirt.disk.base import Backend
from kilonova.virt.libvirt.disk.qcow2 import Qcow2
from kilonova.virt.libvirt.disk.raw import Raw
from kilonova.virt.libvirt.folder import Folder
from kilonova.virt.libvirt.images import ImageCache, ImageSource

_SIZES = "256,1024,4096"
_ROUNDS = {"copy": 3, "overlay": 20, "clone": 20}
_AT_MOST = {"overlay": 30.0, "clone": 150.0}
_PIECE = 4 << 20


class _NoSource(ImageSource):
    """Everything is in the cache."""


def disks() -> list[Figure]:
    sizes = [int(text) for text in os.environ.get("KILONOVA_BENCH_IMAGE_MIB", _SIZES).split(",")]
    took: dict[str, dict[int, float]] = {"copy": {}, "overlay": {}, "clone": {}}
    with tempfile.TemporaryDirectory(prefix="kilonova-bench-", dir="/var/tmp") as temporary:
        for mib in sizes:
            top = Path(temporary) / str(mib)
            folder = Folder(top)
            folder.make()
            image = _cached(folder, mib)
            cache = ImageCache(folder, _NoSource())
            for name, kind in (("copy", Raw), ("overlay", Qcow2)):
                backend = kind(folder, cache)
                took[name][mib] = _times(_ROUNDS[name], lambda b=backend, f=folder, i=image: _disk(b, f, i))
            folder.image(image.id, None).unlink()
        if installed():
            took["clone"] = _clones(sizes, Path(temporary) / "ceph")
    return [figure for name, found in took.items() for figure in _figures(name, found)]


def _figures(name: str, found: dict[int, float]) -> list[Figure]:
    figures = [
        Figure(f"a disk of an image of {mib} MiB, by {name}, p50", took, "ms", at_most=_AT_MOST.get(name))
        for mib, took in found.items()
    ]
    if found and name in _AT_MOST:
        least, most = min(found), max(found)
        ratio = found[most] / found[least]
        figures.append(Figure(f"… of {most} MiB beside one of {least}, by {name}", ratio, "x", at_most=1.3))
    return figures


def _times(rounds: int, make: Callable[[], float]) -> float:
    """The median in milliseconds."""
    return median(make() for _ in range(rounds)) * 1000


def _cached(folder: Folder, mib: int) -> ImageRef:
    image = ImageRef(id=str(uuid.uuid4()), disk_format="raw", size=mib << 20)
    with folder.image(image.id, None).open("wb") as file:
        for _ in range((mib << 20) // _PIECE):
            file.write(os.urandom(_PIECE))
        os.fsync(file.fileno())
    return image


def _disk(backend: Backend, folder: Folder, image: ImageRef) -> float:
    """Seconds until it is there. As in a build, nobody waits for the storage."""
    spec = BuildSpec(
        server_id=str(uuid.uuid4()),
        name="n",
        hostname="n",
        project_id="p",
        user_id="u",
        flavor=Flavor(id="1", name="f", vcpus=1, memory_mb=64, root_gb=20),
        image=image,
    )
    folder.instance(spec.server_id).make()
    began = time.perf_counter()
    backend.ensure_system(spec, Cancel())
    took = time.perf_counter() - began
    backend.remove_all(spec.server_id)
    return took


def _clones(sizes: list[int], top: Path) -> dict[int, float]:
    """As a host makes them that has its disks in Ceph."""
    ceph = Ceph(store="bluestore")
    folder = Folder(top)
    folder.make()
    options = Libvirt(images_type="rbd", rbd_user=USER, images_rbd_ceph_conf=str(ceph.conf))
    backend = disk.backend(Config(libvirt=options), folder, ImageCache(folder, _NoSource()), "bench")
    try:
        ceph.start()
        cluster = Cluster(ceph.conf, USER)
        try:
            store = RbdStore(cluster.pool("images"))
            return {mib: _clone(backend, folder, store, mib) for mib in sizes}
        finally:
            backend.close()
            cluster.close()
    finally:
        ceph.remove()


def _clone(backend: Backend, folder: Folder, store: RbdStore, mib: int) -> float:
    image = ImageRef(id=str(uuid.uuid4()), disk_format="raw", size=mib << 20)
    store.put(image.id, (os.urandom(_PIECE) for _ in range(image.size // _PIECE)), image.size)
    image = structs.replace(image, location=store.location(image.id))
    took = _times(_ROUNDS["clone"], lambda: _disk(backend, folder, image))
    store.delete(image.id)
    return took
