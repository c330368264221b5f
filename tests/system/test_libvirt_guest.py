"""A real guest, booted: what it finds in its machine, and what is told of it."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import msgspec
import pytest
from tests.running import until

from kilonova.cancel import Cancel
from kilonova.config import Config, Libvirt
from kilonova.domain.servers import BuildSpec, Flavor, GuestMetadata, ImageRef, PowerState
from kilonova.virt.base import GuestEvent
from kilonova.virt.libvirt import config_drive
from kilonova.virt.libvirt.driver import LibvirtDriver

pytestmark = pytest.mark.system
BOOT_SECONDS = 240.0

LOOK_AROUND = b"""#!/bin/sh
echo product: $(cat /sys/class/dmi/id/product_name)
echo uuid: $(cat /sys/class/dmi/id/product_uuid)
echo disk: $(cat /sys/block/vda/size)
echo ephemeral: $(dd if=/dev/vdb bs=1 skip=1144 count=10 2>/dev/null)
echo swap: $(dd if=/dev/vdc bs=1 skip=4086 count=10 2>/dev/null)
echo agent: $(cat /sys/class/virtio-ports/*/name)
echo rng: $(cat /sys/class/misc/hw_random/rng_current)
echo seen: all
"""


class GuestHost:
    """The driver over one image file, and what it told: how soon, `python -m bench power` measures."""

    def __init__(self, folder: Path, image: Path) -> None:
        self._image = image
        self._events: list[GuestEvent] = []
        self._more = threading.Condition()
        self.folder = folder
        self.driver = LibvirtDriver(Config(libvirt=Libvirt(virt_type="qemu")), folder, self)
        self.driver.start(self._on_event)

    def open(self, image_id: str) -> BinaryIO:
        return self._image.open("rb")

    def _on_event(self, event: GuestEvent) -> None:
        with self._more:
            self._events.append(event)
            self._more.notify_all()

    def awaits(self, server_id: str, state: PowerState) -> None:
        """Until it was told: nobody looks, so nothing else ends this."""
        wanted = GuestEvent(server_id=server_id, power_state=state)
        with self._more:
            assert self._more.wait_for(lambda: wanted in self._events, 60.0)

    def await_console(self, server_id: str, text: str, timeout: float = BOOT_SECONDS) -> str:
        deadline = time.monotonic() + timeout
        while text not in (said := self.driver.console_output(server_id, None)):
            assert time.monotonic() < deadline, f"{text!r} is not on the console:\n{said[-2000:]}"
            time.sleep(0.1)
        return said

    def build(self, spec: BuildSpec, user_data: bytes | None = None) -> None:
        metadata = GuestMetadata(
            server_id=spec.server_id,
            name=spec.name,
            hostname=spec.hostname,
            project_id=spec.project_id,
            user_data=user_data,
        )
        self.driver.ensure_base_image(spec, Cancel())
        self.driver.ensure_disks(spec, Cancel())
        self.driver.ensure_config_drive(spec, metadata)
        self.driver.ensure_paused(spec, [])
        self.driver.resume_build(spec.server_id)
        self.driver.wait_for_running(spec.server_id, 60.0)


@pytest.fixture(scope="module")
def host(embed_folder: Path, guest_image: Path) -> Iterator[GuestHost]:
    host = GuestHost(embed_folder, guest_image)
    yield host
    host.driver.stop()


@pytest.fixture
def spec(host: GuestHost, guest_image: Path) -> Iterator[BuildSpec]:
    data = guest_image.read_bytes()
    spec = BuildSpec(
        server_id=str(uuid.uuid4()),
        name="vm1",
        hostname="from-config-drive",
        project_id="p1",
        user_id="u1",
        flavor=Flavor(id="1", name="tiny", vcpus=1, memory_mb=128, root_gb=2, ephemeral_gb=1, swap_mb=64),
        image=ImageRef(
            id=str(uuid.uuid4()),
            disk_format="qcow2",
            size=len(data),
            os_hash_value=hashlib.sha512(data).hexdigest(),
        ),
    )
    yield spec
    host.driver.destroy(spec.server_id)


def test_a_guest_finds_its_machine_and_obeys_the_power_button(host: GuestHost, spec: BuildSpec) -> None:
    host.build(spec, LOOK_AROUND)
    said = host.await_console(spec.server_id, "seen: all")
    assert "product: OpenStack Nova" in said
    assert f"uuid: {spec.server_id}" in said.lower()
    assert f"disk: {2 << 21}" in said  # sectors of 512 bytes
    assert "ephemeral: ephemeral0" in said
    assert "swap: SWAPSPACE2" in said
    assert "agent: org.qemu.guest_agent.0" in said
    assert "rng: virtio_rng" in said
    said = host.await_console(spec.server_id, "login:")
    assert "from-config-drive" in said
    assert host.driver.console_output(spec.server_id, 1).count("\n") <= 1

    host.driver.power_off(spec.server_id, BOOT_SECONDS, Cancel())
    assert "Power down" in host.driver.console_output(spec.server_id, None), "the guest stopped by itself"
    host.awaits(spec.server_id, PowerState.SHUTDOWN)


def test_a_guest_that_powers_itself_off_is_told(host: GuestHost, spec: BuildSpec) -> None:
    host.build(spec, b"#!/bin/sh\npoweroff -f\n")
    host.await_console(spec.server_id, "Power down")
    host.awaits(spec.server_id, PowerState.SHUTDOWN)
    guest = host.driver.guest(spec.server_id)
    assert guest is not None
    assert guest.power_state is PowerState.SHUTDOWN


def test_a_killed_qemu_is_told(host: GuestHost, spec: BuildSpec) -> None:
    host.build(spec)
    pid = int((host.folder / f"embed/run/qemu/instance-{spec.server_id}.pid").read_text())
    os.kill(pid, signal.SIGKILL)
    host.awaits(spec.server_id, PowerState.CRASHED)
    host.driver.power_on(spec, [])
    guest = host.driver.guest(spec.server_id)
    assert guest is not None
    assert guest.power_state is PowerState.RUNNING


class PortThief:
    """Listens where the next guest's QEMU was told to, before it does."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._thread = threading.Thread(target=self._run)
        self.port: int | None = None
        """None: QEMU was faster."""

    def __enter__(self) -> PortThief:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()
        self._socket.close()

    def _run(self) -> None:
        display = int(until(self._told, 60, "libvirt to say what it starts", every=0.0))
        with suppress(OSError):
            self._socket.bind(("127.0.0.1", 5900 + display))
            self._socket.listen()
            self.port = 5900 + display

    def _told(self) -> str | None:
        said = self._log.read_text() if self._log.exists() else ""
        found = re.search(r"-vnc 127\.0\.0\.1:(\d+)", said)
        return found and found[1]


def test_a_guest_whose_port_another_takes_first_gets_the_next_one(host: GuestHost, spec: BuildSpec) -> None:
    """As guests of several hosts on one machine do to each other."""
    for _ in range(5):
        driver, one = host.driver, msgspec.structs.replace(spec, server_id=str(uuid.uuid4()))
        driver.ensure_base_image(one, Cancel())
        driver.ensure_disks(one, Cancel())
        try:
            with PortThief(host.folder / f"embed/log/qemu/instance-{one.server_id}.log") as thief:
                driver.ensure_paused(one, [])
            guest = driver.guest(one.server_id)
        finally:
            driver.destroy(one.server_id)
        assert guest is not None
        assert guest.power_state is PowerState.PAUSED
        if thief.port is not None:
            return
    raise AssertionError("no port was taken from any guest")


def test_images_stay_while_a_disk_or_a_cd_drive_has_them(
    host: GuestHost, spec: BuildSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guest of an overlay has no CD, and that of a CD no overlay."""
    cd = tmp_path / "cd"
    config_drive.write(cd, {"x": b"y"})
    data = cd.read_bytes()
    digest = hashlib.sha512(data).hexdigest()
    image = ImageRef(id=str(uuid.uuid4()), disk_format="iso", size=len(data), os_hash_value=digest)
    with_cd = msgspec.structs.replace(spec, server_id=str(uuid.uuid4()), image=image)
    driver, base = host.driver, host.folder / "_base"
    assert spec.image is not None

    def old() -> set[str]:
        """All that is cached was asked for long ago; what of it stays."""
        for path in base.iterdir():
            os.utime(path, (1, 1))
        driver.tidy_images()
        return {path.name for path in base.iterdir() if not path.suffix}

    try:
        for one, source in ((spec, host._image), (with_cd, cd)):
            monkeypatch.setattr(host, "_image", source)
            driver.ensure_base_image(one, Cancel())
            driver.ensure_disks(one, Cancel())
            driver.ensure_paused(one, [])
        unused = base / ("0" * 128)
        unused.touch()
        assert old() == {spec.image.os_hash_value, digest}
        driver.destroy(with_cd.server_id)
        assert old() == {spec.image.os_hash_value}
    finally:
        driver.destroy(with_cd.server_id)
