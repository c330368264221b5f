"""What a host lacks to reach a volume is said before QEMU is told of it, with how to get it."""

from __future__ import annotations

import socket
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from kilonova.domain.block_devices import AttachedVolume
from kilonova.domain.errors import BuildFailed
from kilonova.domain.volumes import Connection, FileConnection, IscsiConnection, RbdConnection
from kilonova.virt.libvirt import reach


def of(connection: Connection) -> AttachedVolume:
    return AttachedVolume(
        volume_id=str(uuid.uuid4()), connection=connection, device_name="vdb", disk_bus="virtio"
    )


def iscsi(portal: str) -> AttachedVolume:
    return of(IscsiConnection(portal=portal, iqn="iqn.x:y", lun=1, username="u", password="p"))


def ceph(*monitors: str) -> AttachedVolume:
    return of(RbdConnection(pool="volumes", image="v", monitors=list(monitors), user="cinder", fsid="f"))


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Somebody who takes connections, and counts them by ``accept()``."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        yield one


def at(listener: socket.socket) -> str:
    return f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address that refuses."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield at(bound)


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "_known", set())


def test_a_file_of_another_machine(tmp_path: Path) -> None:
    here = tmp_path / "volume"
    here.touch()
    reach.check([of(FileConnection(path=str(here)))])
    gone = of(FileConnection(path=str(tmp_path / "gone")))
    with pytest.raises(BuildFailed, match=f"volume {gone.volume_id} is a file that this host has not"):
        reach.check([gone])


def test_a_store_that_answers_is_asked_once(listener: socket.socket, nobody: str) -> None:
    portal = at(listener)
    reach.check([iscsi(portal), iscsi(portal), ceph(nobody, portal)])
    listener.settimeout(60)
    for _ in range(2):
        listener.accept()[0].close()
    listener.settimeout(0.1)
    with pytest.raises(TimeoutError):
        listener.accept()


def test_a_store_that_does_not_answer_is_named(nobody: str) -> None:
    with pytest.raises(BuildFailed, match=f"no iSCSI target answers this host at {nobody}"):
        reach.check([iscsi(nobody)])
    with pytest.raises(BuildFailed, match=f"no monitor of Ceph answers this host at {nobody} or {nobody}"):
        reach.check([ceph(nobody, nobody)])


def test_a_silent_address_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its queue is full: the kernel answers nobody any more, as an address behind a firewall."""
    monkeypatch.setattr(reach, "_PATIENCE", 0.3)
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for one in (first, second):
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        done = threading.Event()

        def try_it() -> None:
            with pytest.raises(BuildFailed, match="no iSCSI target answers"):
                reach.check([iscsi(at(full))])
            done.set()

        threading.Thread(target=try_it, daemon=True).start()
        assert done.wait(60)


def test_a_qemu_without_the_driver_comes_with_the_command_that_gets_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, listener: socket.socket
) -> None:
    program = tmp_path / "qemu-img"
    program.write_text(
        "#!/bin/sh\necho \"qemu-img: Could not open '$3': Unknown driver '${3#driver=}'\" >&2\nexit 1\n"
    )
    program.chmod(0o755)
    with monkeypatch.context() as lacking:
        lacking.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        for volume, driver in ((ceph(at(listener)), "rbd"), (iscsi(at(listener)), "iscsi")):
            with pytest.raises(BuildFailed, match=f"no driver for {driver}.*install qemu-block-extra"):
                reach.check([volume])
    reach.check([ceph(at(listener)), iscsi(at(listener))])  # it was installed meanwhile
