"""What every driver keeps of virt.base.Driver: the same tests for the fake and for libvirt.

Under libvirt the guests are real QEMU processes whose disk holds no operating system, which is enough here.
"""

from __future__ import annotations

import hashlib
import io
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from kilonova.cancel import Cancel
from kilonova.config import Config, Fake, Libvirt
from kilonova.domain.block_devices import AttachedVolume
from kilonova.domain.errors import BuildAborted, BuildFailed, Conflict, NotFound, StaleEpoch
from kilonova.domain.network import Vif
from kilonova.domain.servers import BuildSpec, Flavor, GuestMetadata, ImageRef, PowerState
from kilonova.domain.volumes import CopyState, FileConnection
from kilonova.virt.base import Driver, Guest, GuestEvent
from kilonova.virt.fake import FakeDriver

IMAGE = bytes(1 << 20)
GO_ON = Cancel()


class OneImage:
    """An image source of one raw disk of zeros."""

    def open(self, image_id: str) -> io.BytesIO:
        return io.BytesIO(IMAGE)


class Host:
    """A driver under test, and what it told."""

    def __init__(self, driver: Driver, seconds: dict[str, float]) -> None:
        self.driver = driver
        self.seconds = seconds
        """What the fake driver's steps take. Libvirt's guests ignore ACPI anyway: nothing runs in them."""
        self._told: list[GuestEvent] = []
        self._more = threading.Condition()

    def on_event(self, event: GuestEvent) -> None:
        with self._more:
            self._told.append(event)
            self._more.notify_all()

    def states(self, server_id: str) -> list[PowerState]:
        with self._more:
            return [event.power_state for event in self._told if event.server_id == server_id]

    def await_state(self, server_id: str, state: PowerState, timeout: float = 60.0) -> None:
        with self._more:
            told = self._more.wait_for(lambda: state in self.states(server_id), timeout)
        assert told, f"{state.name} was not told; told were {self.states(server_id)}"

    def state(self, server_id: str) -> PowerState | None:
        guest = self.driver.guest(server_id)
        return guest and guest.power_state

    def build_paused(self, spec: BuildSpec) -> None:
        self.driver.ensure_base_image(spec, GO_ON)
        self.driver.ensure_disks(spec, GO_ON)
        self.driver.ensure_paused(spec, [])

    def build(self, spec: BuildSpec) -> None:
        self.build_paused(spec)
        self.driver.resume_build(spec.server_id)
        self.driver.wait_for_running(spec.server_id, 10.0)


@pytest.fixture(
    scope="module",
    params=["fake", *(pytest.param(kind, marks=pytest.mark.system) for kind in ("qcow2", "raw"))],
)
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    seconds: dict[str, float] = {}
    if request.param == "fake":
        driver: Driver = FakeDriver("host1", Config(fake=Fake(step_seconds=seconds)))
    else:
        from kilonova.virt.libvirt.driver import LibvirtDriver

        folder: Path = request.getfixturevalue("embed_folder")
        libvirt = Libvirt(virt_type="qemu", device_detach_timeout=1, images_type=request.param)
        driver = LibvirtDriver(Config(libvirt=libvirt), folder, OneImage())
    host = Host(driver, seconds)
    driver.start(host.on_event)
    yield host
    driver.stop()


@pytest.fixture
def spec(host: Host) -> Iterator[BuildSpec]:
    """A server to build; nothing of it is left afterwards."""
    spec = make_spec()
    yield spec
    host.driver.destroy(spec.server_id)


@pytest.fixture
def running(host: Host, spec: BuildSpec) -> BuildSpec:
    host.build(spec)
    return spec


def make_spec() -> BuildSpec:
    server_id = str(uuid.uuid4())
    return BuildSpec(
        server_id=server_id,
        name="a <name> & more",
        hostname="a-name",
        project_id="p1",
        user_id="u1",
        flavor=Flavor(id="1", name="tiny", vcpus=1, memory_mb=64, root_gb=1),
        image=ImageRef(
            id=str(uuid.UUID(int=1)),
            disk_format="raw",
            size=len(IMAGE),
            os_hash_value=hashlib.sha512(IMAGE).hexdigest(),
        ),
    )


def test_report_says_what_the_host_holds(host: Host) -> None:
    report = host.driver.report()
    assert report.total.vcpus >= 1
    assert report.total.memory_mb > 0
    assert report.total.disk_gb > 0
    assert report.hypervisor_type in ("QEMU", "fake")
    assert report.hypervisor_version > 0


def test_build_starts_paused_and_runs_when_it_may(host: Host, spec: BuildSpec) -> None:
    host.build_paused(spec)
    assert host.driver.guest(spec.server_id) == Guest(
        server_id=spec.server_id, power_state=PowerState.PAUSED, awaits_start=True
    )
    assert host.states(spec.server_id) == [], "the pause of a build is nobody's news"

    host.driver.resume_build(spec.server_id)
    host.driver.wait_for_running(spec.server_id, 10.0)
    host.await_state(spec.server_id, PowerState.RUNNING)
    guest = host.driver.guest(spec.server_id)
    assert guest == Guest(server_id=spec.server_id, power_state=PowerState.RUNNING)
    assert guest in host.driver.guests()
    assert PowerState.PAUSED not in host.states(spec.server_id)


def test_every_step_of_a_build_may_run_twice(host: Host, spec: BuildSpec) -> None:
    for _ in range(2):
        host.build_paused(spec)
    for _ in range(2):
        host.driver.resume_build(spec.server_id)
        host.driver.wait_for_running(spec.server_id, 10.0)
    host.build_paused(spec)
    assert host.state(spec.server_id) is PowerState.RUNNING, "a guest that runs is left alone"


def test_leftovers_are_more_than_guests(host: Host, spec: BuildSpec) -> None:
    host.driver.ensure_base_image(spec, GO_ON)
    host.driver.ensure_disks(spec, GO_ON)
    assert spec.server_id in host.driver.leftovers()
    assert host.driver.guest(spec.server_id) is None
    host.driver.ensure_paused(spec, [])
    assert spec.server_id in host.driver.leftovers()


def test_destroy_leaves_nothing_and_may_run_twice(host: Host, running: BuildSpec) -> None:
    for _ in range(2):
        host.driver.destroy(running.server_id)
        assert host.driver.guest(running.server_id) is None
        assert running.server_id not in host.driver.leftovers()


def test_destroy_undoes_half_a_build(host: Host, spec: BuildSpec) -> None:
    host.driver.ensure_base_image(spec, GO_ON)
    host.driver.ensure_disks(spec, GO_ON)
    host.driver.destroy(spec.server_id)
    assert spec.server_id not in host.driver.leftovers()


def test_a_cancelled_build_stops(host: Host, spec: BuildSpec) -> None:
    cancelled = Cancel()
    cancelled.set()
    with pytest.raises(StaleEpoch):
        host.driver.ensure_base_image(_other_image(spec), cancelled)


def test_waiting_for_a_guest_that_stays_paused_ends(host: Host, spec: BuildSpec) -> None:
    host.build_paused(spec)
    with pytest.raises(BuildFailed, match="not running after"):
        host.driver.wait_for_running(spec.server_id, 0.2)


def test_waiting_for_a_guest_that_stops_fails_at_once(host: Host, spec: BuildSpec) -> None:
    host.build_paused(spec)
    stopper = threading.Timer(0.2, host.driver.power_off, (spec.server_id, 0, GO_ON))
    stopper.start()
    with pytest.raises(BuildFailed, match="stopped"):
        host.driver.wait_for_running(spec.server_id, 30.0)
    stopper.join()


def test_power_off_and_on(host: Host, running: BuildSpec) -> None:
    host.driver.power_off(running.server_id, 0, GO_ON)
    assert host.state(running.server_id) is PowerState.SHUTDOWN
    host.await_state(running.server_id, PowerState.SHUTDOWN)
    host.driver.power_off(running.server_id, 0, GO_ON)

    for _ in range(2):
        host.driver.power_on(running, [])
        assert host.state(running.server_id) is PowerState.RUNNING


def test_power_off_ends_a_guest_that_does_not_listen(host: Host, running: BuildSpec) -> None:
    host.driver.power_off(running.server_id, 0.5, GO_ON)
    assert host.state(running.server_id) is PowerState.SHUTDOWN


@pytest.mark.parametrize("what", ["power_off", "reboot"])
def test_a_cancelled_wait_for_a_guest_that_does_not_listen_ends_at_once(
    host: Host, running: BuildSpec, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setitem(host.seconds, what, 60.0)
    cancel = Cancel()
    ask = {
        "power_off": lambda: host.driver.power_off(running.server_id, 60.0, cancel),
        "reboot": lambda: host.driver.reboot(running, [], hard=False, cancel=cancel),
    }[what]
    canceller = threading.Timer(0.2, cancel.set)
    canceller.start()
    began = time.monotonic()
    with pytest.raises(StaleEpoch):
        ask()
    canceller.join()
    host.driver.destroy(running.server_id)
    assert time.monotonic() - began < 50
    assert running.server_id not in host.driver.leftovers()


def test_hard_reboot(host: Host, running: BuildSpec) -> None:
    host.driver.reboot(running, [], hard=True, cancel=GO_ON)
    assert host.state(running.server_id) is PowerState.RUNNING


def test_pause_is_the_users_and_is_told(host: Host, running: BuildSpec) -> None:
    host.driver.pause(running.server_id)
    host.driver.pause(running.server_id)
    guest = host.driver.guest(running.server_id)
    assert guest == Guest(server_id=running.server_id, power_state=PowerState.PAUSED, awaits_start=False)
    host.await_state(running.server_id, PowerState.PAUSED)

    host.driver.unpause(running.server_id)
    host.driver.unpause(running.server_id)
    assert host.state(running.server_id) is PowerState.RUNNING


def test_suspend_and_resume(host: Host, running: BuildSpec) -> None:
    host.driver.suspend(running.server_id)
    host.driver.suspend(running.server_id)
    assert host.state(running.server_id) is PowerState.SUSPENDED
    host.await_state(running.server_id, PowerState.SUSPENDED)
    assert PowerState.PAUSED not in host.states(running.server_id)

    host.driver.resume(running, [])
    assert host.state(running.server_id) is PowerState.RUNNING


def test_what_needs_a_running_guest_says_so(host: Host, running: BuildSpec) -> None:
    host.driver.power_off(running.server_id, 0, GO_ON)
    for ask in (host.driver.pause, host.driver.unpause, host.driver.suspend):
        with pytest.raises(BuildFailed):
            ask(running.server_id)
    assert host.state(running.server_id) is PowerState.SHUTDOWN


def test_power_off_ends_a_suspended_guest(host: Host, running: BuildSpec) -> None:
    host.driver.suspend(running.server_id)
    host.driver.power_off(running.server_id, 0, GO_ON)
    assert host.state(running.server_id) is PowerState.SHUTDOWN


def test_a_suspended_guest_can_be_destroyed(host: Host, running: BuildSpec) -> None:
    host.driver.suspend(running.server_id)
    host.driver.destroy(running.server_id)
    assert running.server_id not in host.driver.leftovers()


def test_what_a_guest_uses_is_told_while_it_is_on(host: Host, running: BuildSpec) -> None:
    told = host.driver.diagnostics(running.server_id)
    assert told.driver in ("fake", "libvirt")
    if told.driver == "libvirt":
        assert told.hypervisor in ("qemu", "kvm")
        assert [cpu.id for cpu in told.cpus] == list(range(running.flavor.vcpus))
        assert told.memory_maximum == running.flavor.memory_mb * 1024
        assert told.disks
    assert sorted(nic.device for nic in told.nics) == sorted(host.driver.interfaces(running.server_id))
    host.driver.power_off(running.server_id, 0, GO_ON)
    with pytest.raises(Conflict):
        host.driver.diagnostics(running.server_id)


def test_the_host_tells_its_uptime(host: Host) -> None:
    told = host.driver.host_uptime()
    assert told == "" or "load average" in told


def test_console_of_a_guest_can_be_read(host: Host, running: BuildSpec) -> None:
    assert isinstance(host.driver.console_output(running.server_id, None), str)
    assert host.driver.console_output(running.server_id, 0) == ""


def test_a_guest_is_rescued_and_back(host: Host, running: BuildSpec) -> None:
    other, stable = _other_image(running).image, {"hw_rescue_device": "disk"}
    assert other is not None
    metadata = GuestMetadata(server_id=running.server_id, name="n", hostname="n", project_id="p1")
    host.driver.cache_image(other, GO_ON)
    for image in (other, other, msgspec.structs.replace(other, properties=stable)):
        host.driver.rescue(running, image, [], metadata, GO_ON)
        assert host.state(running.server_id) is PowerState.RUNNING
    for _ in range(2):
        host.driver.unrescue(running, [])
        assert host.state(running.server_id) is PowerState.RUNNING


@pytest.mark.system
def test_a_rescue_that_failed_leaves_nothing_to_the_next(
    host: Host, running: BuildSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither its disk nor its password, whether it ended or was killed."""
    from kilonova.virt.libvirt.driver import LibvirtDriver

    driver, image = host.driver, running.image
    if not isinstance(driver, LibvirtDriver):
        pytest.skip("the fake driver has no disks")
    assert image is not None
    instance = driver._folder.instance(running.server_id)
    metadata = GuestMetadata(server_id=running.server_id, name="n", hostname="n", project_id="p1")
    with monkeypatch.context() as patch:
        patch.setattr(driver._guests, "create", _refuse)
        with pytest.raises(BuildFailed, match="refused"):
            driver.rescue(running, image, [], metadata, GO_ON)
    assert [path.name for path in instance.path.iterdir() if "rescue" in path.name] == []
    driver._disks.ensure_rescue(running, image, GO_ON)
    driver._write_config_drive(instance.rescue_config_drive, metadata)
    left = {path.name: path.stat().st_ino for path in instance.path.iterdir() if "rescue" in path.name}
    assert len(left) == 2
    held = [path.open("rb") for path in instance.path.iterdir() if path.name in left]
    driver.rescue(running, image, [], metadata, GO_ON)
    for path, file in zip((instance.path / name for name in left), held, strict=True):
        assert path.stat().st_ino != left[path.name], path.name
        file.close()


@pytest.mark.system
def test_a_snapshot_leaves_the_reserve_free(
    host: Host, running: BuildSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guests that find no space to write to stand still."""
    from kilonova.virt.libvirt import cached
    from kilonova.virt.libvirt.driver import LibvirtDriver

    if not isinstance(host.driver, LibvirtDriver):
        pytest.skip("the fake driver has no disks")
    with monkeypatch.context() as patch:
        patch.setattr(cached, "free_bytes", lambda _folder: 256 << 20)
        with pytest.raises(BuildFailed, match="no space left"):
            host.driver.take_snapshot(running.server_id, GO_ON)
    assert host.state(running.server_id) is PowerState.RUNNING
    host.driver.take_snapshot(running.server_id, GO_ON)


def _refuse(*_: object, **__: object) -> None:
    raise BuildFailed("refused")


@pytest.mark.parametrize("state", ["running", "paused", "off"])
def test_what_a_guest_has_on_its_disk_can_be_taken(host: Host, running: BuildSpec, state: str) -> None:
    server_id = running.server_id
    if state == "paused":
        host.driver.pause(server_id)
    if state == "off":
        host.driver.power_off(server_id, 0, GO_ON)
    was = host.state(server_id)
    with pytest.raises(NotFound):
        host.driver.open_snapshot(server_id, GO_ON)
    for _ in range(2):
        host.driver.take_snapshot(server_id, GO_ON)
        with host.driver.open_snapshot(server_id, GO_ON) as taken:
            assert taken.read(4) == b"QFI\xfb"
    assert host.state(server_id) is was
    for _ in range(2):
        host.driver.drop_snapshot(server_id)
        with pytest.raises(NotFound):
            host.driver.open_snapshot(server_id, GO_ON)
    host.driver.drop_snapshot(make_spec().server_id)
    with pytest.raises(NotFound):
        host.driver.take_snapshot(make_spec().server_id, GO_ON)


def test_config_drive(host: Host, spec: BuildSpec) -> None:
    metadata = GuestMetadata(server_id=spec.server_id, name="n", hostname="n", project_id="p1")
    host.driver.ensure_base_image(spec, GO_ON)
    host.driver.ensure_disks(spec, GO_ON)
    for _ in range(2):
        host.driver.ensure_config_drive(spec, metadata)
    host.driver.ensure_paused(spec, [])
    assert host.state(spec.server_id) is PowerState.PAUSED


@pytest.fixture
def vifs(host: Host) -> Iterator[list[Vif]]:
    """NICs, with their taps where guests are real."""
    made = [
        Vif(port_id=str(uuid.uuid4()), network_id=str(uuid.uuid4()), mac=f"fa:16:3e:01:02:0{n}")
        for n in range(4)
    ]
    if isinstance(host.driver, FakeDriver):
        yield made
        return
    from kilonova.network.host import linux

    for vif in made:
        linux.ensure_tap(vif.tap)
    yield made
    for vif in made:
        linux.delete_link(vif.tap)


@pytest.fixture
def vif(vifs: list[Vif]) -> Vif:
    return vifs[0]


def test_a_q35_machine_has_room_for_more(host: Host, spec: BuildSpec, vifs: list[Vif]) -> None:
    """It has no free slots by itself, but ports that were made for them."""
    assert spec.image is not None
    image = msgspec.structs.replace(spec.image, properties={"hw_machine_type": "q35"})
    q35 = msgspec.structs.replace(spec, image=image)
    host.build(q35)
    for vif in vifs:
        host.driver.attach_interface(q35, vif)
    assert host.driver.interfaces(q35.server_id).keys() == {vif.tap for vif in vifs}


@pytest.mark.parametrize("state", ["running", "paused"])
def test_a_nic_comes_to_a_guest_that_is_on(host: Host, running: BuildSpec, vif: Vif, state: str) -> None:
    if state == "paused":
        host.driver.pause(running.server_id)
    assert host.driver.interfaces(running.server_id) == {}
    for _ in range(2):
        host.driver.attach_interface(running, vif)
        assert host.driver.interfaces(running.server_id) == {vif.tap: True}
    assert host.state(running.server_id) is PowerState[state.upper()]


def test_a_nic_comes_to_a_guest_that_is_off_and_goes(host: Host, running: BuildSpec, vif: Vif) -> None:
    host.driver.power_off(running.server_id, 0, GO_ON)
    host.driver.attach_interface(running, vif)
    assert host.driver.interfaces(running.server_id) == {vif.tap: True}
    host.driver.power_on(running, [vif])
    assert host.driver.interfaces(running.server_id) == {vif.tap: True}
    host.driver.power_off(running.server_id, 0, GO_ON)
    for _ in range(2):
        host.driver.detach_interface(running.server_id, vif.tap, 5.0, GO_ON)
        assert host.driver.interfaces(running.server_id) == {}
    host.driver.power_on(running, [])
    assert host.driver.interfaces(running.server_id) == {}


def test_a_paused_guest_cannot_let_go(host: Host, running: BuildSpec, vif: Vif) -> None:
    host.driver.attach_interface(running, vif)
    host.driver.pause(running.server_id)
    with pytest.raises(BuildFailed, match="paused"):
        host.driver.detach_interface(running.server_id, vif.tap, 5.0, GO_ON)
    assert host.driver.interfaces(running.server_id) == {vif.tap: True}


def test_a_guest_that_does_not_let_go_of_its_nic(
    host: Host, running: BuildSpec, vif: Vif, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No system runs in libvirt's guests here, so nobody answers there; it is asked several times."""
    host.driver.attach_interface(running, vif)
    if isinstance(host.driver, FakeDriver):
        monkeypatch.setitem(host.seconds, "detach_interface", 60.0)
    else:
        with pytest.raises(BuildFailed, match="did not let go"):
            host.driver.detach_interface(running.server_id, vif.tap, 2.5, GO_ON)
    cancel = Cancel()
    canceller = threading.Timer(0.2, cancel.set)
    canceller.start()
    with pytest.raises(StaleEpoch):
        host.driver.detach_interface(running.server_id, vif.tap, 60.0, cancel)
    canceller.join()
    assert host.driver.interfaces(running.server_id) == {vif.tap: True}


def test_a_link_goes_down_and_up(host: Host, running: BuildSpec, vif: Vif) -> None:
    host.driver.attach_interface(running, vif)
    for up in (False, True, False):
        host.driver.set_link(running.server_id, vif.tap, up)
        assert host.driver.interfaces(running.server_id) == {vif.tap: up}
    host.driver.reboot(running, [msgspec.structs.replace(vif, admin_state_up=False)], True, GO_ON)
    assert host.driver.interfaces(running.server_id) == {vif.tap: False}


MakeVolume = Callable[[], AttachedVolume]


@pytest.fixture
def make_volume(host: Host, request: pytest.FixtureRequest) -> Iterator[MakeVolume]:
    """With its file where guests are real."""
    made: list[Path] = []

    def make() -> AttachedVolume:
        volume_id = str(uuid.uuid4())
        path = Path("/nowhere") / f"volume-{volume_id}"
        if not isinstance(host.driver, FakeDriver):
            path = request.getfixturevalue("embed_folder") / path.name
            path.write_bytes(b"\0" * (1 << 20))
        made.append(path)
        connection = FileConnection(path=str(path))
        name = f"vd{'bcdef'[len(made) - 1]}"
        return AttachedVolume(volume_id=volume_id, connection=connection, device_name=name, disk_bus="virtio")

    yield make
    for path in made:
        path.unlink(missing_ok=True)


@pytest.fixture
def volume(make_volume: MakeVolume) -> AttachedVolume:
    return make_volume()


@pytest.mark.parametrize("state", ["running", "paused"])
def test_a_volume_comes_to_a_guest_that_is_on(
    host: Host, running: BuildSpec, volume: AttachedVolume, state: str
) -> None:
    if state == "paused":
        host.driver.pause(running.server_id)
    for _ in range(2):
        host.driver.attach_volume(running, volume)
        assert host.driver.volumes(running.server_id) == {volume.volume_id}
    assert host.state(running.server_id) is PowerState[state.upper()]
    if state == "paused":
        with pytest.raises(BuildFailed, match="paused"):
            host.driver.detach_volume(running.server_id, volume.volume_id, 1.0, GO_ON)
        assert host.driver.volumes(running.server_id) == {volume.volume_id}


def test_a_guest_starts_with_the_volumes_it_is_given(
    host: Host, running: BuildSpec, volume: AttachedVolume
) -> None:
    server_id = running.server_id
    host.driver.reboot(running, [], True, GO_ON, [volume])
    assert host.driver.volumes(server_id) == {volume.volume_id}
    host.driver.power_off(server_id, 0, GO_ON)
    for _ in range(2):
        host.driver.detach_volume(server_id, volume.volume_id, 1.0, GO_ON)
        assert host.driver.volumes(server_id) == set()
    host.driver.attach_volume(running, volume)
    assert host.driver.volumes(server_id) == {volume.volume_id}
    host.driver.resize_volume(server_id, volume.volume_id, 1)  # off: nothing
    host.driver.power_on(running, [], [])
    assert host.driver.volumes(server_id) == set()


def test_volumes_of_nobody(host: Host, running: BuildSpec, volume: AttachedVolume) -> None:
    nobody = make_spec()
    assert host.driver.volumes(nobody.server_id) == set()
    host.driver.detach_volume(nobody.server_id, volume.volume_id, 1.0, GO_ON)
    host.driver.detach_volume(running.server_id, volume.volume_id, 1.0, GO_ON)
    host.driver.resize_volume(nobody.server_id, volume.volume_id, 1)
    to = msgspec.structs.replace(volume, volume_id=str(uuid.uuid4()))
    for server_id in (nobody.server_id, running.server_id):
        assert host.driver.copy_volume(server_id, volume.volume_id, to, True, 0.0) is CopyState.OFF
        host.driver.drop_copy(server_id, volume.volume_id, to.volume_id)
    with pytest.raises(NotFound):
        host.driver.attach_volume(nobody, volume)
    with pytest.raises(BuildFailed):
        host.driver.mirror_volume(running, str(uuid.uuid4()), volume, 10.0, GO_ON)
    with pytest.raises(BuildFailed):
        host.driver.swap_volume(running.server_id, volume.volume_id, str(uuid.uuid4()))
    for server_id in (nobody.server_id, running.server_id):
        host.driver.end_mirrors(server_id)


def test_a_guest_goes_over_to_a_copy(host: Host, running: BuildSpec, make_volume: MakeVolume) -> None:
    """To the last one that was asked for, and to none that was given up."""
    driver, server_id = host.driver, running.server_id
    old, other, new = (make_volume() for _ in range(3))
    driver.attach_volume(running, old)
    driver.mirror_volume(running, old.volume_id, other, 60.0, GO_ON)
    for _ in range(2):
        driver.mirror_volume(running, old.volume_id, new, 60.0, GO_ON)
    assert driver.volumes(server_id) == {old.volume_id}
    with pytest.raises(BuildFailed):
        driver.swap_volume(server_id, old.volume_id, other.volume_id)
    for _ in range(2):
        driver.swap_volume(server_id, old.volume_id, new.volume_id)
        assert driver.volumes(server_id) == {new.volume_id}
    driver.mirror_volume(running, old.volume_id, new, 60.0, GO_ON)  # it has it
    driver.mirror_volume(running, new.volume_id, other, 60.0, GO_ON)
    for _ in range(2):
        driver.end_mirrors(server_id)
    with pytest.raises(BuildFailed):
        driver.swap_volume(server_id, new.volume_id, other.volume_id)
    driver.attach_volume(running, other)  # nobody writes to it
    assert driver.volumes(server_id) == {new.volume_id, other.volume_id}


def test_nics_of_nobody(host: Host, running: BuildSpec, vif: Vif) -> None:
    nobody = make_spec()
    assert host.driver.interfaces(nobody.server_id) == {}
    host.driver.detach_interface(nobody.server_id, vif.tap, 1.0, GO_ON)
    host.driver.detach_interface(running.server_id, vif.tap, 1.0, GO_ON)
    for ask in (
        lambda: host.driver.attach_interface(nobody, vif),
        lambda: host.driver.set_link(nobody.server_id, vif.tap, False),
        lambda: host.driver.set_link(running.server_id, vif.tap, False),
    ):
        with pytest.raises(NotFound):
            ask()


def test_unknown_guests_are_not_found(host: Host) -> None:
    spec = make_spec()
    unknown = spec.server_id
    assert host.driver.guest(unknown) is None
    for ask in (
        lambda: host.driver.pause(unknown),
        lambda: host.driver.unpause(unknown),
        lambda: host.driver.suspend(unknown),
        lambda: host.driver.resume(spec, []),
        lambda: host.driver.power_off(unknown, 0, GO_ON),
        lambda: host.driver.console_output(unknown, None),
        lambda: host.driver.diagnostics(unknown),
    ):
        with pytest.raises(NotFound):
            ask()
    host.driver.destroy(unknown)
    with pytest.raises(BuildFailed):
        host.driver.wait_for_running(unknown, 1.0)


@pytest.mark.parametrize("server_id", ["", "../..", "a/b", "x\0y", "name' or 1", "é" * 40])
def test_ids_that_are_none_touch_nothing(host: Host, server_id: str) -> None:
    assert host.driver.guest(server_id) is None
    with pytest.raises(NotFound):
        host.driver.console_output(server_id, None)
    before = host.driver.leftovers()
    with suppress(NotFound):
        host.driver.destroy(server_id)
    assert host.driver.leftovers() == before


def test_many_builds_at_once(host: Host) -> None:
    specs = [make_spec() for _ in range(4)]
    try:
        with ThreadPoolExecutor(len(specs)) as pool:
            list(pool.map(host.build, specs))
        assert {host.state(spec.server_id) for spec in specs} == {PowerState.RUNNING}
    finally:
        for spec in specs:
            host.driver.destroy(spec.server_id)


def test_a_server_without_image_and_disk_cannot_be_built(host: Host, spec: BuildSpec) -> None:
    flavor = msgspec.structs.replace(spec.flavor, root_gb=0)
    with pytest.raises(BuildAborted):
        host.driver.ensure_disks(msgspec.structs.replace(spec, image=None, flavor=flavor), GO_ON)


def _other_image(spec: BuildSpec) -> BuildSpec:
    assert spec.image is not None
    image = msgspec.structs.replace(spec.image, id=str(uuid.uuid4()), os_hash_value=None)
    return msgspec.structs.replace(spec, image=image)


def test_a_volume_is_copied_and_the_guest_keeps_it(
    host: Host, running: BuildSpec, make_volume: MakeVolume
) -> None:
    """A copy is no swap: what ends the one leaves the other."""
    driver, server_id = host.driver, running.server_id
    one = make_volume()
    to = place_of_snapshot(one, make_volume())
    driver.attach_volume(running, one)
    for begin in (True, True):
        state = driver.copy_volume(server_id, one.volume_id, to, begin, 0.0)
        while state is CopyState.GOING:
            driver.end_mirrors(server_id)
            state = driver.copy_volume(server_id, one.volume_id, to, False, 1.0)
        assert state is CopyState.COPIED
        assert driver.volumes(server_id) == {one.volume_id}
    driver.copy_volume(server_id, one.volume_id, to, True, 0.0)
    for _ in range(2):
        driver.drop_copy(server_id, one.volume_id, to.volume_id)
    driver.power_off(server_id, 0, GO_ON)
    assert driver.copy_volume(server_id, one.volume_id, to, True, 0.0) is CopyState.OFF


def place_of_snapshot(of: AttachedVolume, place: AttachedVolume) -> AttachedVolume:
    """As a backend of files names it."""
    assert isinstance(place.connection, FileConnection)
    path = Path(place.connection.path)
    named = path.with_name(f"volume-{of.volume_id}.snapshot-{place.volume_id}.part")
    if path.exists():
        path.rename(named)
    return msgspec.structs.replace(place, connection=FileConnection(path=str(named)))
