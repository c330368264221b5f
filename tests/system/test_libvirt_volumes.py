"""Volumes of a real guest: it boots from one; another comes, grows, is swapped and goes while it runs."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.running import until
from tests.system.test_libvirt_guest import BOOT_SECONDS, GuestHost

from kilonova.cancel import Cancel
from kilonova.domain.block_devices import AttachedVolume
from kilonova.domain.errors import BuildFailed, Unavailable
from kilonova.domain.servers import BuildSpec, Flavor, GuestMetadata
from kilonova.domain.volumes import CopyState, FileConnection, IscsiConnection

pytestmark = pytest.mark.system
GIB = 1 << 30
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
        n=$((n + 1))
        if [ "$(head -c 5 /dev/vdb 2>/dev/null)" = count ]; then
            printf %08d $n | dd of=/dev/vdb bs=8 seek=64 conv=notrunc,fsync
            printf %08d $n | dd of=/dev/vdb bs=8 seek=134217664 conv=notrunc,fsync
        else
            sleep 0.3
        fi
    done 2>/dev/null
) &
echo seen: all
"""
"""One that begins with ``count`` is written to at both ends, in turn, without an end."""


@pytest.fixture(scope="module")
def host(embed_folder: Path, guest_image: Path) -> Iterator[GuestHost]:
    host = GuestHost(embed_folder, guest_image)
    yield host
    host.driver.stop()


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


def path_of(one: AttachedVolume) -> Path:
    assert isinstance(one.connection, FileConnection)
    return Path(one.connection.path)


def test_a_guest_lives_with_its_volumes(
    host: GuestHost, spec: BuildSpec, guest_image: Path, embed_folder: Path
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

    behind_password = AttachedVolume(
        volume_id=str(uuid.uuid4()),
        connection=IscsiConnection(portal="127.0.0.1:3260", iqn="iqn.x:y", lun=1, username="u", password="p"),
        device_name="vdb",
        disk_bus="virtio",
    )
    with pytest.raises(BuildFailed, match="needs a libvirtd"):
        driver.attach_volume(spec, behind_password)

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
