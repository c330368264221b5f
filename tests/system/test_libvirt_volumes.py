"""Volumes of a real guest: it boots from one; another comes, grows, is swapped and goes while it runs."""

from __future__ import annotations

import base64
import os
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from msgspec import structs
from tests.ceph import Ceph
from tests.running import until
from tests.system.test_libvirt_guest import BOOT_SECONDS, GuestHost
from tests.tgt import Tgtd
from tests.tgt import installed as tgt_installed
from tests.volume_backends import Images, Place, opened

from kilonova.cancel import Cancel
from kilonova.domain.block_devices import AttachedVolume
from kilonova.domain.errors import BuildFailed, Unavailable
from kilonova.domain.servers import BuildSpec, Flavor, GuestMetadata, ImageRef
from kilonova.domain.volumes import (
    Connection,
    Connector,
    CopyState,
    FileConnection,
    FromImage,
    IscsiConnection,
)
from kilonova.volume.base import Backend

pytestmark = pytest.mark.system
GIB = 1 << 30
FAR = b"far/away!!"
ANOTHER = str(uuid.uuid4())
SECTORS = GIB // 512

WATCH_DISKS = b"""#!/bin/sh
echo root: $(cat /sys/block/vda/serial) $(cat /sys/block/vda/size)
(
    last=
    while true; do
        now=$(for d in /sys/block/vd[b-z]; do
            [ -e $d/size ] && echo $(basename $d) $(head -c 10 /dev/$(basename $d)) $(cat $d/size)
        done)
        [ "$now" = "$last" ] || echo "disks: [$(echo $now)]" > /dev/console
        last=$now
        sleep 0.3
    done
) &
(
    while true; do
        rm -f /tmp/b && mknod /tmp/b b $(tr : ' ' < /sys/block/vdb/dev)  # /dev/vdb may become a file
        while [ "$(head -c 5 /tmp/b)" = count ]; do
            n=$((n + 1))
            printf %08d $n | dd of=/tmp/b bs=8 seek=64 conv=notrunc,fsync
            printf %08d $n | dd of=/tmp/b bs=8 seek=134217664 conv=notrunc,fsync
        done
        sleep 0.3
    done 2>/dev/null
) &
echo seen: all
"""
"""One that begins with ``count`` is written to at both ends, in turn, without an end."""


@pytest.fixture(scope="module")
def host(embed_folder: Path, guest_image: Path, ceph: Ceph) -> Iterator[GuestHost]:
    host = GuestHost(embed_folder, guest_image, images_rbd_ceph_conf=str(ceph.conf))
    yield host
    host.driver.stop()


@pytest.fixture(scope="module")
def tgt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tgtd]:
    if not tgt_installed():
        pytest.skip("needs tgt: tools/install-packages test")
    made = Tgtd(tmp_path_factory.mktemp("tgt"))
    yield made.start()
    made.kill()


@pytest.fixture
def spec(host: GuestHost) -> Iterator[BuildSpec]:
    spec = BuildSpec(
        server_id=str(uuid.uuid4()),
        name="vm1",
        hostname="of-a-volume",
        project_id="p1",
        user_id="u1",
        flavor=Flavor(id="1", name="tiny", vcpus=1, memory_mb=128, root_gb=0),
        image=None,
        boots_from_volume=True,
        has_block_devices=True,
    )
    yield spec
    host.driver.destroy(spec.server_id)


def volume(folder: Path, name: str, holds: bytes = b"", size: int = GIB, **more: object) -> AttachedVolume:
    volume_id = str(uuid.uuid4())
    path = folder / f"volume-{volume_id}"
    path.write_bytes(holds)
    os.truncate(path, size)
    connection = FileConnection(path=str(path))
    given: dict[str, object] = {"volume_id": volume_id, "connection": connection, "device_name": name}
    return AttachedVolume(**given | {"disk_bus": "virtio"} | more)  # type: ignore[arg-type]


@contextmanager
def kept(place: Place, connector: Connector) -> Iterator[tuple[AttachedVolume, Backend]]:
    """A volume of a backend, that another host or another process keeps."""
    volume_id = str(uuid.uuid4())
    images = Images()
    image = ImageRef(id=str(uuid.uuid4()), disk_format="raw", size=4096)
    images.bytes[image.id] = FAR.ljust(4096, b"\0")
    with opened(place, images) as backend:
        backend.ensure_volume(volume_id, 1, FromImage(image=image), Cancel())
        connection = backend.connect(volume_id, connector)
        given = {"volume_id": volume_id, "connection": connection, "device_name": "vdb"}
        yield AttachedVolume(**given, disk_bus="virtio"), backend
        backend.disconnect(volume_id, connector)
        backend.delete(volume_id)


def about(server_id: str, folder: Path) -> str:
    """All that is written of a guest: documents, logs, the arguments of its process, what is in memory."""
    places = [folder / "embed", *Path("/dev/shm").glob("kilonova-*")]
    files = [path for place in places for path in place.rglob("*") if path.is_file()]
    processes = [path for path in Path("/proc").glob("[0-9]*/cmdline") if server_id.encode() in read(path)]
    assert processes
    return b"\n".join(read(path) for path in (*files, *processes)).decode(errors="replace")


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # gone by now
        return b""


def path_of(one: AttachedVolume) -> Path:
    assert isinstance(one.connection, FileConnection)
    return Path(one.connection.path)


def test_a_guest_lives_with_its_volumes(
    host: GuestHost, spec: BuildSpec, guest_image: Path, embed_folder: Path, ceph: Ceph, tgt: Tgtd
) -> None:
    driver, server_id = host.driver, spec.server_id
    folder = embed_folder / "volumes"  # QEMU may run as another user, who must pass through
    folder.mkdir(mode=0o711)
    root = volume(folder, "vda", boot_index=0)
    subprocess.run(
        ["qemu-img", "convert", "-n", "-f", "qcow2", "-O", "raw", str(guest_image), str(path_of(root))],
        check=True,
        timeout=60,
    )
    metadata = GuestMetadata(
        server_id=server_id, name="vm1", hostname="of-a-volume", project_id="p1", user_data=WATCH_DISKS
    )
    driver.ensure_disks(spec, Cancel())
    driver.ensure_config_drive(spec, metadata)
    driver.ensure_paused(spec, [], [root])
    driver.resume_build(server_id)
    driver.wait_for_running(server_id, 10.0)
    assert driver.volumes(server_id) == {root.volume_id}
    said = host.await_console(server_id, "seen: all")
    assert f"root: {root.volume_id[:20]} {SECTORS}" in said

    data = volume(folder, "vdb", b"first data")
    driver.attach_volume(spec, data)
    driver.attach_volume(spec, data)  # again: nothing
    host.await_console(server_id, f"disks: [vdb first data {SECTORS}]", BOOT_SECONDS)

    os.truncate(path_of(data), 2 * GIB)
    driver.resize_volume(server_id, data.volume_id, 2)
    host.await_console(server_id, f"disks: [vdb first data {2 * SECTORS}]", BOOT_SECONDS)

    other = volume(folder, "vdb", size=2 * GIB)
    driver.swap_volume(spec, data.volume_id, other, Cancel())
    assert driver.volumes(server_id) == {root.volume_id, other.volume_id}
    with path_of(other).open("rb") as file:
        assert file.read(10) == b"first data"

    driver.pause(server_id)
    with pytest.raises(BuildFailed, match="paused"):
        driver.detach_volume(server_id, other.volume_id, 1.0, Cancel())
    driver.unpause(server_id)
    driver.detach_volume(server_id, other.volume_id, BOOT_SECONDS, Cancel())
    assert driver.volumes(server_id) == {root.volume_id}
    host.await_console(server_id, "disks: []", BOOT_SECONDS)

    _copied_while_the_guest_writes(host, spec, folder)

    behind = (
        (Place("rbd", embed_folder, ceph_conf=ceph.conf), lambda _: ceph.key),
        (Place("iscsi", embed_folder, tgt=tgt), lambda connection: connection.password),
    )
    for place, secret_of in behind:
        with kept(place, driver.connector()) as (far, backend):
            driver.attach_volume(spec, far)
            host.await_console(server_id, f"disks: [vdb {FAR.decode()} {SECTORS}]", BOOT_SECONDS)
            seen = about(server_id, embed_folder)
            assert far.volume_id in seen
            secret = secret_of(far.connection)
            assert secret not in seen
            assert base64.b64encode(secret.encode()).decode() not in seen
            if isinstance(far.connection, IscsiConnection):
                other = structs.replace(far.connection, password="not this one")
                with pytest.raises(BuildFailed, match="cannot attach"):
                    driver.attach_volume(spec, structs.replace(far, volume_id=ANOTHER, connection=other))
                _snapshot_begins(host, spec, far, backend)
            driver.detach_volume(server_id, far.volume_id, BOOT_SECONDS, Cancel())
            host.await_console(server_id, "disks: []", BOOT_SECONDS)

    driver.power_off(server_id, 0, Cancel())
    driver.attach_volume(spec, data)
    assert driver.volumes(server_id) == {root.volume_id, data.volume_id}
    driver.detach_volume(server_id, data.volume_id, 1.0, Cancel())
    driver.power_on(spec, [], [root])
    until(lambda: driver.volumes(server_id) == {root.volume_id}, 10, "the guest with its root")


def _copied_while_the_guest_writes(host: GuestHost, spec: BuildSpec, folder: Path) -> None:
    """What is first written at the beginning and then at the end is there of one moment."""
    driver, server_id = host.driver, spec.server_id
    counted, to = volume(folder, "vdb", b"count"), volume(folder, "")
    other = volume(folder, "")
    driver.attach_volume(spec, counted)
    until(lambda: _numbers(counted)[1] > 2, BOOT_SECONDS, "the guest to count")
    for _ in range(2):  # again: from the start, of a later moment
        before = _numbers(counted)[1]
        state = driver.copy_volume(server_id, counted.volume_id, to, True, 0.0)
        if state is CopyState.GOING:
            with pytest.raises(Unavailable, match="somewhere else"):
                driver.copy_volume(server_id, counted.volume_id, other, True, 0.0)
        while state is CopyState.GOING:
            state = driver.copy_volume(server_id, counted.volume_id, to, False, 1.0)
        assert state is CopyState.COPIED
        first, last = _numbers(to)
        assert first - 1 <= last <= first
        assert before <= first <= _numbers(counted)[0]
    assert path_of(to).stat().st_blocks * 512 < 64 << 20, "what was a hole is none any more"
    driver.copy_volume(server_id, counted.volume_id, other, True, 0.0)
    driver.drop_copy(server_id, counted.volume_id, other.volume_id)
    driver.drop_copy(server_id, counted.volume_id, other.volume_id)
    driver.copy_volume(server_id, counted.volume_id, other, True, 0.0)
    driver.detach_volume(server_id, counted.volume_id, BOOT_SECONDS, Cancel())
    assert driver.copy_volume(server_id, counted.volume_id, to, True, 0.0) is CopyState.OFF


def _numbers(one: AttachedVolume) -> tuple[int, int]:
    with path_of(one).open("rb") as file:
        first = os.pread(file.fileno(), 8, 512)
        last = os.pread(file.fileno(), 8, GIB - 512)
    return int(first.rstrip(b"\0") or b"0"), int(last.rstrip(b"\0") or b"0")


def _snapshot_begins(host: GuestHost, spec: BuildSpec, far: AttachedVolume, backend: Backend) -> None:
    """The guest's hypervisor finds the backend's place; to its end it would take a minute here."""
    snapshot_id = str(uuid.uuid4())

    def by_guest(way: Connection) -> None:
        to = structs.replace(far, volume_id=snapshot_id, connection=way)
        state = host.driver.copy_volume(spec.server_id, far.volume_id, to, True, 0.0)
        assert state is CopyState.GOING
        host.driver.drop_copy(spec.server_id, far.volume_id, snapshot_id)
        raise Unavailable("that is enough")

    with pytest.raises(Unavailable, match="enough"):
        backend.ensure_snapshot(far.volume_id, snapshot_id, Cancel(), by_guest)
    assert backend.snapshots() == {}
