"""The first pull of an image to a host, beside what `cp` needs to have the same bytes on the same disk."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
import uuid
from pathlib import Path
from statistics import median

from bench.figure import Figure
from kilonova.cancel import Cancel
from kilonova.domain.servers import ImageRef
from kilonova.image.file import FileStore
from kilonova.image.upload import Upload
from kilonova.virt.libvirt.folder import Folder
from kilonova.virt.libvirt.images import ImageCache

_MIB = 512
_ROUNDS = 5


def image_pull() -> list[Figure]:
    """A qcow2 full of data, from a store on this machine. Both end when the bytes are on the disk."""
    with tempfile.TemporaryDirectory(prefix="kilonova-bench-", dir="/var/tmp") as temporary:
        top = Path(temporary)
        image = _image(top)
        pulls, copies = [], []
        for number in range(_ROUNDS):
            copies.append(_copied(top / "store" / image.id, top / "copy"))
            pulls.append(_pulled(top / "store", image, top / f"host-{number}"))
    ratio = median(copy / pull for copy, pull in zip(copies, pulls, strict=True))
    note = f"{_MIB} MiB in {median(pulls):.2f} s; cp in {median(copies):.2f} s"
    return [Figure("first pull of a qcow2 image, speed of cp", ratio, "x cp", at_least=0.8, note=note)]


def _image(top: Path) -> ImageRef:
    raw, qcow2 = top / "raw", top / "qcow2"
    with raw.open("wb") as file:
        for _ in range(_MIB):
            file.write(os.urandom(1 << 20))
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(qcow2)], check=True)
    raw.unlink()
    image_id = str(uuid.uuid4())
    with qcow2.open("rb") as file:
        upload = Upload(file, "qcow2", "bare", None)
        FileStore(top / "store").put(image_id, upload, 1 << 40)
    qcow2.unlink()
    return ImageRef(
        id=image_id,
        disk_format="qcow2",
        size=upload.data.size,
        os_hash_value=upload.data.os_hash_value,
        tree_hash=upload.data.tree_hash,
    )


def _copied(source: Path, target: Path) -> float:
    os.sync()
    began = time.perf_counter()
    subprocess.run(["cp", str(source), str(target)], check=True)
    subprocess.run(["sync", str(target)], check=True)
    taken = time.perf_counter() - began
    target.unlink()
    return taken


def _pulled(store: Path, image: ImageRef, host: Path) -> float:
    folder = Folder(host)
    folder.make()
    cache = ImageCache(folder, FileStore(store))
    os.sync()
    began = time.perf_counter()
    path = cache.ensure(image, Cancel())
    taken = time.perf_counter() - began
    path.unlink()
    return taken
