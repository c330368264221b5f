"""A guest whose file systems are held still for a snapshot goes on, whatever fails meanwhile."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast
from xml.etree import ElementTree as ET

import pytest
from tests.running import until

from kilonova.cancel import Cancel
from kilonova.domain.errors import BuildFailed, KilonovaError, NotFound, Timeout, Unavailable
from kilonova.domain.servers import PowerState
from kilonova.virt.base import Guest
from kilonova.virt.libvirt.disk.base import FileSource
from kilonova.virt.libvirt.folder import Folder
from kilonova.virt.libvirt.guests import View
from kilonova.virt.libvirt.snapshot import Snapshots
from kilonova.virt.libvirt.still import Stillness
from kilonova.virt.libvirt.watch import Watch

SERVER = str(uuid.uuid4())
DISK = Path("/x/disk")


class Domain:
    """A guest with an agent, as Guests shows it. ``fails``: by the method, what it raises the next times."""

    def __init__(self) -> None:
        self.on = True
        self.paused = False
        self.held = False
        self.connected = True
        self.job = False
        self.fails: dict[str, list[KilonovaError]] = {}
        self.ended: list[str] = []
        self.meanwhile: Callable[[], None] = lambda: None
        """What others do while it is held."""

    def _may(self, what: str) -> None:
        if self.fails.get(what):
            raise self.fails[what].pop(0)

    def get(self, _server_id: str) -> None:
        self._may("get")

    def look(self, server_id: str) -> View | None:
        self._may("look")
        state = PowerState.RUNNING if self.on else PowerState.SHUTDOWN
        if self.paused:
            state = PowerState.PAUSED
        return View(guest=Guest(server_id=server_id, power_state=state), passing=False)

    def document(self, _server_id: str) -> str:
        state = "connected" if self.connected else "disconnected"
        channel = f"<target type='virtio' name='org.qemu.guest_agent.0' state='{state}'/>"
        disk = f"<disk><source file='{DISK}'/><target dev='vda'/></disk>"
        return f"<domain><devices>{disk}<channel>{channel}</channel></devices></domain>"

    def freeze(self, _server_id: str) -> None:
        self.held = True
        self._may("freeze")

    def thaw(self, _server_id: str) -> None:
        self._may("thaw")
        self.held = False

    def begin_backup(self, _server_id: str, document: str) -> None:
        """The file is made by libvirt, which wants to find none."""
        self.meanwhile()
        assert self.held
        self._may("begin_backup")
        target = ET.fromstring(document).find("disks/disk/target")
        assert target is not None
        Path(target.attrib["file"]).touch(exist_ok=False)
        self.job = True

    def job_done(self, _server_id: str) -> bool:
        self.job = False
        return True

    def end_job(self, server_id: str) -> bool:
        self.ended.append(server_id)
        had, self.job = self.job, False
        return had

    def idle(self, _server_id: str) -> bool:
        return True


class Disks:
    def find(self, _server_id: str, _name: object) -> FileSource:
        return FileSource(path=DISK, format="qcow2")

    def hold(self, _server_id: str) -> bool:
        return False

    def let_go(self, _server_id: str) -> None:
        """Nothing of files is held."""


@pytest.fixture
def domain() -> Domain:
    return Domain()


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path)
    folder.make()
    folder.instance(SERVER).make()
    return folder


@pytest.fixture
def stillness(folder: Folder, domain: Domain) -> Stillness:
    return Stillness(folder, cast(Any, domain))


@pytest.fixture
def snapshots(folder: Folder, domain: Domain, stillness: Stillness) -> Snapshots:
    watch = Watch(lambda _server_id: None)
    return Snapshots(folder, cast(Any, Disks()), cast(Any, domain), watch, stillness)


def test_it_goes_on_as_soon_as_the_job_has_begun(
    snapshots: Snapshots, domain: Domain, folder: Folder
) -> None:
    snapshots.take(SERVER, Cancel())
    assert not domain.held
    assert not folder.instance(SERVER).frozen.exists()
    assert folder.instance(SERVER).snapshot.exists()


def test_who_looks_for_what_was_left_held_leaves_it_alone(
    snapshots: Snapshots, stillness: Stillness, domain: Domain, folder: Folder
) -> None:
    """The host looks every few seconds."""
    domain.meanwhile = stillness.thaw_all
    snapshots.take(SERVER, Cancel())
    assert not domain.held
    assert not folder.instance(SERVER).frozen.exists()


@pytest.mark.parametrize("connected", [True, False])
def test_what_must_be_in_order_is_or_is_not_taken(
    snapshots: Snapshots, domain: Domain, folder: Folder, connected: bool
) -> None:
    snapshots.take(SERVER, Cancel(), in_order=True)
    snapshots.drop(SERVER)
    domain.connected = connected
    domain.fails = {"freeze": [Timeout("no answer")]}
    with pytest.raises(BuildFailed):
        snapshots.take(SERVER, Cancel(), in_order=True)
    assert not domain.held
    assert not domain.job
    assert not folder.instance(SERVER).snapshot.exists()


@pytest.mark.parametrize(
    "fails",
    [
        {"begin_backup": [Unavailable("libvirt is away")], "thaw": [Unavailable("libvirt is away")] * 3},
        {"freeze": [Timeout("no answer")], "thaw": [Timeout("the agent is busy")] * 2},
        {"thaw": [BuildFailed("the agent was asked and has not answered")]},
        {"thaw": [Unavailable("away")], "look": [Unavailable("away")]},
    ],
)
def test_a_thaw_that_fails_is_tried_again(
    snapshots: Snapshots,
    stillness: Stillness,
    domain: Domain,
    folder: Folder,
    fails: dict[str, list[KilonovaError]],
) -> None:
    if "look" in fails:
        folder.instance(SERVER).frozen.touch()  # it died, and another process begins
        domain.held = True
    domain.fails = fails
    if "begin_backup" in fails:
        with pytest.raises(Unavailable):
            snapshots.take(SERVER, Cancel())
    elif "look" in fails:
        assert not stillness.thaw(SERVER)
    else:
        snapshots.take(SERVER, Cancel())
    assert domain.held
    for _ in range(3):
        stillness.thaw_all()
    assert not domain.held
    assert not folder.instance(SERVER).frozen.exists()


@pytest.mark.parametrize("error", [NotFound("gone"), BuildFailed("it is not running")])
def test_of_a_guest_that_is_off_nothing_is_held(
    stillness: Stillness, domain: Domain, folder: Folder, error: KilonovaError
) -> None:
    folder.instance(SERVER).frozen.touch()
    domain.on = False
    domain.fails = {"thaw": [error]}
    assert stillness.thaw(SERVER)
    assert not folder.instance(SERVER).frozen.exists()


def test_a_job_of_somebody_else_goes_on(snapshots: Snapshots, domain: Domain, folder: Folder) -> None:
    """An operator's dump or backup of a server that nothing is done to."""
    domain.job = True
    snapshots.drop(SERVER)
    assert domain.job
    target = folder.instance(SERVER).snapshot
    target.with_name("disk.snapshot.part").touch()
    snapshots.drop(SERVER)
    assert not domain.job
    assert list(target.parent.iterdir()) == []


def test_a_guest_is_held_until_it_is_let_go(stillness: Stillness, domain: Domain, folder: Folder) -> None:
    assert stillness.hold(SERVER, "snapshot", 60)
    assert stillness.hold(SERVER, "snapshot", 60), "asked again by the same"
    stillness.thaw_all()
    assert domain.held
    assert not stillness.go_on(SERVER, "another")
    assert domain.held
    assert stillness.go_on(SERVER, "snapshot")
    assert not domain.held
    assert not stillness.go_on(SERVER, "snapshot")
    assert not folder.instance(SERVER).frozen.exists()
    assert stillness.hold(SERVER, "another", 60)
    stillness.go_on(SERVER, "another")


def test_nobody_is_held_for_long(stillness: Stillness, domain: Domain) -> None:
    """A volume manager that asked for it may have died; who looks now and then may be waiting for others."""
    assert stillness.hold(SERVER, "snapshot", 0.01)
    until(lambda: not domain.held, 60, "the guest to go on by itself")
    assert not stillness.go_on(SERVER, "snapshot"), "what was taken meanwhile may be out of order"


def test_who_asks_again_holds_it_longer(stillness: Stillness, domain: Domain) -> None:
    assert stillness.hold(SERVER, "snapshot", 60)
    assert stillness.hold(SERVER, "snapshot", 0.01)
    until(lambda: not domain.held, 60, "the guest to go on by itself, as was said last")


def test_who_stops_holds_nobody(stillness: Stillness, domain: Domain) -> None:
    stillness.hold(SERVER, "snapshot", 60)
    stillness.stop()
    assert not domain.held


def test_what_a_killed_host_held_goes_on_at_its_next_start(
    stillness: Stillness, domain: Domain, folder: Folder
) -> None:
    stillness.hold(SERVER, "snapshot", 60)
    next_one = Stillness(folder, cast(Any, domain))
    next_one.thaw_left(SERVER)
    assert not domain.held
    assert not next_one.go_on(SERVER, "snapshot")


def test_who_gives_up_a_snapshot_spoils_no_other(
    stillness: Stillness, snapshots: Snapshots, domain: Domain
) -> None:
    """An image of a server is begun, or the host is compared with the records, while a store takes a
    snapshot of a volume of it."""
    stillness.hold(SERVER, "snapshot", 60)
    snapshots.drop(SERVER)
    assert domain.held
    assert stillness.go_on(SERVER, "snapshot")
    assert not domain.held


def test_what_a_killed_host_held_goes_on_when_its_snapshot_is_given_up(
    stillness: Stillness, snapshots: Snapshots, domain: Domain, folder: Folder
) -> None:
    folder.instance(SERVER).frozen.touch()
    domain.held = True
    snapshots.drop(SERVER)
    assert not domain.held


@pytest.mark.parametrize("state", ["off", "paused", "without an agent", "not answering"])
def test_who_cannot_be_held(stillness: Stillness, domain: Domain, folder: Folder, state: str) -> None:
    domain.on, domain.paused, domain.connected = (
        state != "off",
        state == "paused",
        state != "without an agent",
    )
    if state == "not answering":
        domain.fails = {"freeze": [Timeout("no answer")]}
    if state == "off":
        assert not stillness.hold(SERVER, "snapshot", 60, in_order=True)
        return
    with pytest.raises(BuildFailed):
        stillness.hold(SERVER, "snapshot", 60, in_order=True)
    assert not domain.held
    assert not folder.instance(SERVER).frozen.exists()
    if state != "not answering":
        assert not stillness.hold(SERVER, "snapshot", 60)
