"""Volume backends, to try contracts and kills on: each can be opened again, in another process too."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from tests.ceph import USER
from tests.tgt import Tgtd

from kilonova.domain.errors import NotFound
from kilonova.domain.volumes import Connection, Connector, FileConnection, IscsiConnection, RbdConnection
from kilonova.rbd import Cluster
from kilonova.volume.backends.file import FileBackend
from kilonova.volume.backends.iscsi import IscsiBackend
from kilonova.volume.backends.rbd import RbdBackend
from kilonova.volume.backends.tgt import Tgt
from kilonova.volume.base import Backend

HOST = Connector(host="h1", ip="127.0.0.1", initiator="iqn.2026-11.test:h1")
OTHER = Connector(host="h2", ip="127.0.0.1", initiator="iqn.2026-11.test:h2")


class Place(NamedTuple):
    """Where a backend is: all that another process needs to open it."""

    kind: str
    folder: Path
    ceph_conf: Path | None = None
    tgt: Tgtd | None = None
    timeout: int = 30


class Images:
    """An image service that has these bytes."""

    def __init__(self) -> None:
        self.bytes: dict[str, bytes] = {}
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


@contextmanager
def opened(place: Place, images: Images | None = None) -> Iterator[Backend]:
    images = images or Images()
    with ExitStack() as stack:
        if place.kind == "file":
            yield FileBackend(place.folder / "volumes", images)
            return
        if place.kind == "iscsi":
            assert place.tgt is not None
            yield IscsiBackend(
                place.folder / "volumes",
                images,
                tgt=Tgt(place.tgt.address),
                portal=place.tgt.portal,
                prefix="iqn.2026-11.test:",
            )
            return
        assert place.ceph_conf is not None
        cluster = Cluster(place.ceph_conf, USER, timeout=place.timeout)
        stack.callback(cluster.close)
        yield RbdBackend(cluster.pool("volumes"), images, place.folder / "spool")


def qemu_io(connection: Connection, *commands: str, place: Place, connector: Connector = HOST) -> str:
    """What a guest on that host would do. AssertionError if it cannot."""
    words = [word for one in commands for word in ("-c", one)]
    done = subprocess.run(
        [*qemu_io_command(connection, place, connector), *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "error" not in done.stderr.lower(), done.stderr
    return done.stdout


@contextmanager
def guest(connection: Connection, place: Place) -> Iterator[Callable[[str], str]]:
    """One that runs: what it says to a command."""
    command = qemu_io_command(connection, place, HOST)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        said, asked = process.stdout, process.stdin

        def ask(words: str) -> str:
            print(words, file=asked, flush=True)
            return said.readline()

        try:
            yield ask
            process.stdin.close()
            process.wait(3)
        except subprocess.TimeoutExpired:
            pass  # its disk was taken from it
        finally:
            process.kill()


def qemu_io_command(connection: Connection, place: Place, connector: Connector) -> list[str]:
    options = qemu_options(connection, place, connector)
    return ["qemu-io", *secret(connection, place), "--image-opts", options]


def qemu_options(connection: Connection, place: Place, connector: Connector) -> str:
    match connection:
        case FileConnection(path=path):
            return f"driver=raw,file.driver=file,file.filename={path}"
        case RbdConnection(pool=pool, image=image, user=user):
            known = f"file.pool={pool},file.image={image},file.user={user},file.conf={place.ceph_conf}"
            return f"driver=raw,file.driver=rbd,{known}"
        case IscsiConnection(portal=portal, iqn=iqn, lun=lun, username=username):
            known = f"file.portal={portal},file.target={iqn},file.lun={lun},file.user={username}"
            return (
                f"driver=raw,file.driver=iscsi,file.transport=tcp,{known},file.password-secret=chap,"
                f"file.initiator-name={connector.initiator}"
            )


def secret(connection: Connection, place: Place) -> list[str]:
    if not isinstance(connection, IscsiConnection):
        return []
    path = place.folder / f"chap-{connection.username}"
    path.write_text(connection.password)
    return ["--object", f"secret,id=chap,file={path}"]
