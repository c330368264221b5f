"""Volume backends, to try contracts and kills on: each can be opened again, in another process too."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from tests.ceph import USER

from kilonova.domain.errors import NotFound
from kilonova.domain.servers import ImageRef
from kilonova.domain.volumes import Connection, Connector, FileConnection, IscsiConnection, RbdConnection
from kilonova.rbd import Cluster, Snapshot
from kilonova.volume.backends.file import FileBackend
from kilonova.volume.backends.rbd import RbdBackend
from kilonova.volume.base import Backend

HOST = Connector(host="h1", ip="127.0.0.1", initiator="iqn.2026-11.test:h1")
OTHER = Connector(host="h2", ip="127.0.0.1", initiator="iqn.2026-11.test:h2")


class Place(NamedTuple):
    """Where a backend is: all that another process needs to open it."""

    kind: str
    folder: Path
    ceph_conf: Path | None = None
    tgt: str = ""
    timeout: int = 30


class Images:
    """An image service that has these bytes, and Ceph's images those that are said to be there."""

    def __init__(self) -> None:
        self.bytes: dict[str, bytes] = {}
        self.in_ceph: set[str] = set()
        self.before_read = lambda: None

    def open(self, image_id: str) -> BinaryIO:
        if image_id not in self.bytes:
            raise NotFound(f"no image {image_id}")
        images = self

        class Stream(io.BytesIO):
            def read(self, size: int | None = -1, /) -> bytes:
                images.before_read()
                return super().read(size)

        return Stream(self.bytes[image_id])

    def in_cluster(self, image: ImageRef) -> Snapshot | None:
        return Snapshot("images", image.id, "snap") if image.id in self.in_ceph else None


@contextmanager
def opened(place: Place, images: Images | None = None) -> Iterator[Backend]:
    images = images or Images()
    with ExitStack() as stack:
        if place.kind == "file":
            yield FileBackend(place.folder / "volumes", images)
            return
        assert place.ceph_conf is not None
        cluster = Cluster(place.ceph_conf, USER, timeout=place.timeout)
        stack.callback(cluster.close)
        yield RbdBackend(cluster.pool("volumes"), images, place.folder / "spool", images.in_cluster)


def qemu_io(connection: Connection, *commands: str, place: Place, connector: Connector = HOST) -> str:
    """What a guest on that host would do. AssertionError if it cannot."""
    words = [word for one in commands for word in ("-c", one)]
    done = subprocess.run(
        ["qemu-io", "--image-opts", *words, qemu_options(connection, place, connector)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "error" not in done.stderr.lower(), done.stderr
    return done.stdout


def qemu_options(connection: Connection, place: Place, connector: Connector) -> str:
    match connection:
        case FileConnection(path=path):
            return f"driver=raw,file.driver=file,file.filename={path}"
        case RbdConnection(pool=pool, image=image, user=user):
            known = f"file.pool={pool},file.image={image},file.user={user},file.conf={place.ceph_conf}"
            return f"driver=raw,file.driver=rbd,{known}"
        case IscsiConnection(portal=portal, iqn=iqn, lun=lun, username=username, password=password):
            (place.folder / "chap").write_text(password)
            known = f"file.portal={portal},file.target={iqn},file.lun={lun},file.user={username}"
            return (
                f"driver=raw,file.driver=iscsi,file.transport=tcp,{known},file.password-secret=chap,"
                f"file.initiator-name={connector.initiator}"
            )
