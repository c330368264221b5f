"""The volumes of guests: those of a build, those that come to a guest and leave it, and those it starts with.

prepare_block_devices: the conductor makes and connects a build's volumes; the host waits for them.
attach_volume: the way there, then the guest gets its device. detach_volume: the guest lets go of it.
swap_volume: all is copied to another one, then the guest goes on with that. Every one looks before it acts.
What a host needs to reach a volume is asked for each time, and kept nowhere but in what QEMU is told.

A volume is let go of by the host's word alone that its guest has nothing of it: work that brings one, and of
which nobody knows how it went, stays open (actions.VOLUME_COMES), also past its deadline.
"""

from __future__ import annotations

from collections.abc import Callable, Set

from kilonova import log
from kilonova.cancel import Cancel
from kilonova.compute.journal import Journal
from kilonova.compute.parts import Parts
from kilonova.compute.word import wait
from kilonova.domain.actions import ATTACH_VOLUME, DETACH_VOLUME, SWAP_VOLUME
from kilonova.domain.block_devices import AttachedVolume
from kilonova.domain.clock import now
from kilonova.domain.errors import BuildFailed, NotFound
from kilonova.domain.messages import (
    BlockDevices,
    Copied,
    CopyVolume,
    HeldStill,
    HoldStill,
    PrepareBlockDevices,
    ServerRecord,
    ServerVolumes,
    VolumeCopy,
    Work,
)
from kilonova.domain.servers import BuildSpec, PowerState, TaskState

KINDS = frozenset({ATTACH_VOLUME, DETACH_VOLUME, SWAP_VOLUME})
_AGAIN = 3.0
"""Seconds until the conductor is asked again for volumes that were being made: the word that they are there
may have been lost."""
_COPIES_FOR = 5.0
"""Seconds of a copy in one call."""
_HELD_FOR = 20.0
"""Seconds that a guest is held still at most, if nobody lets it go on."""
_SOON = 5.0
"""Seconds that a guest has to let go of a volume that is its no more: nobody waits for the answer."""

_log = log.get("compute")


def prepare_block_devices(parts: Parts, work: Work, journal: Journal, cancel: Cancel) -> BlockDevices:
    """The disks that the server was asked for with, one by one; nothing if it was not. What the conductor
    made of them is undone by it, when the build ends or goes elsewhere."""
    if not work.spec.has_block_devices:
        return BlockDevices()
    with journal.step("prepare_block_devices", shows=TaskState.BLOCK_DEVICE_MAPPING):
        return until_there(parts, lambda: _ask(parts, work, journal, "prepare_block_devices"), cancel)


def until_there(parts: Parts, ask: Callable[[], BlockDevices], cancel: Cancel) -> BlockDevices:
    """The conductor's answer when nothing is pending any more."""
    with parts.volumes_changed.listen() as changed:
        while (found := ask()).pending:
            parts.faults.reach("build.wait_for_volumes.before")
            wait(changed, cancel, _AGAIN)
        return found


def _ask(parts: Parts, work: Work, journal: Journal, method: str) -> BlockDevices:
    message = PrepareBlockDevices(
        host=parts.host,
        operation_id=work.operation_id,
        epoch=work.epoch,
        connector=parts.driver.connector(),
    )
    return journal.ask(method, message, BlockDevices)


def volumes_of(parts: Parts, work: Work) -> list[AttachedVolume]:
    """What a guest that is about to be started has, connected to this host."""
    return disks_of(parts, work).volumes


def disks_of(parts: Parts, work: Work) -> BlockDevices:
    """The same, and all disks that are in the records one by one, for what the guest is told of them."""
    if not work.has_volumes and not work.spec.has_block_devices:
        return BlockDevices()
    message = ServerVolumes(host=parts.host, server_id=work.server_id, connector=parts.driver.connector())
    found = parts.ask("server_volumes", message, BlockDevices)
    parts.faults.reach(f"{work.kind}.connect_volumes.after")
    return found


def change_volumes(parts: Parts, work: Work, journal: Journal, cancel: Cancel) -> PowerState:
    """Do it; the guest's power state, which it leaves as it is."""
    guest = parts.driver.guest(work.server_id)
    if guest is None:
        raise NotFound(f"Instance {work.server_id} has no guest on this host.")
    {ATTACH_VOLUME: _attach, DETACH_VOLUME: _detach, SWAP_VOLUME: _swap}[work.kind](
        parts, work, journal, cancel
    )
    return guest.power_state


def _attach(parts: Parts, work: Work, journal: Journal, _cancel: Cancel) -> None:
    def take_back() -> None:
        parts.driver.detach_volume(work.server_id, str(work.payload["volume_id"]), _SOON, Cancel())

    volume = _connected(parts, work, journal, take_back)
    with journal.step("attach_volume"):
        parts.driver.attach_volume(work.spec, volume)


def _detach(parts: Parts, work: Work, journal: Journal, cancel: Cancel) -> None:
    rules = parts.config.libvirt
    patience = rules.device_detach_attempts * rules.device_detach_timeout
    with journal.step("detach_volume"):
        parts.driver.detach_volume(work.server_id, str(work.payload["volume_id"]), patience, cancel)


def _swap(parts: Parts, work: Work, journal: Journal, cancel: Cancel) -> None:
    """Before the guest goes over to it the conductor is asked whether the new volume is still its to have."""
    old_id = str(work.payload["old_volume_id"])
    volume = _connected(parts, work, journal, lambda: parts.driver.end_mirrors(work.server_id))
    with journal.step("mirror_volume"):
        parts.driver.mirror_volume(work.spec, old_id, volume, max(0.0, work.deadline - now()), cancel)
    with journal.step("swap_volume", asks=True):
        parts.driver.swap_volume(work.server_id, old_id, volume.volume_id)


def _connected(parts: Parts, work: Work, journal: Journal, undo: Callable[[], None]) -> AttachedVolume:
    """``undo``: the guest has nothing of the volume, whatever was done in an earlier life of the work."""
    with journal.step("connect_volume", undo=undo):
        if now() >= work.deadline:
            raise BuildFailed("it did not end in time")
        return _ask(parts, work, journal, "connect_volume").volumes[0]


def copy_volume(parts: Parts, message: CopyVolume) -> Copied:
    """Go on with a copy of a volume that a guest writes to, to where a snapshot is to be."""
    to = AttachedVolume(
        volume_id=message.snapshot_id, connection=message.to, device_name="", disk_bus="virtio"
    )
    state = parts.driver.copy_volume(
        message.server_id, message.volume_id, to, message.begin, _COPIES_FOR, message.in_order
    )
    return Copied(state=state)


def hold_still(parts: Parts, message: HoldStill) -> HeldStill:
    """For a snapshot that the volume's store takes; go_on() ends it."""
    by, seconds = message.snapshot_id, _HELD_FOR
    return HeldStill(held=parts.driver.hold_still(message.server_id, by, seconds, message.in_order))


def go_on(parts: Parts, message: VolumeCopy) -> HeldStill:
    return HeldStill(held=parts.driver.go_on(message.server_id, message.snapshot_id))


def may_differ(parts: Parts, server_id: str, volumes: list[str] | None) -> bool:
    """Whether the guest has a volume that the record has not, lacks one, or has one that may have grown."""
    return volumes is not None and bool(volumes or parts.driver.volumes(server_id))


def refresh_volumes(parts: Parts, record: ServerRecord, active: bool) -> None:
    """The guest has no volume that the record has not, writes to no other, and sees how large those are that
    it has. One that is ``active`` has all of the record: it may have let go of one too late for anybody to
    hear of it."""
    server_id = record.spec.server_id
    if record.volumes is None:
        return
    parts.faults.reach("refresh_interfaces.end_mirrors.before")
    parts.driver.end_mirrors(server_id)
    parts.faults.reach("refresh_interfaces.end_mirrors.after")
    has = parts.driver.volumes(server_id)
    for volume_id in has:
        if volume_id in record.volumes:
            parts.driver.resize_volume(server_id, volume_id, record.volumes[volume_id])
            parts.faults.reach("refresh_interfaces.resize_volume.after")
            continue
        _log.info("volume_left_its_server", volume=volume_id, server=server_id)
        try:
            parts.driver.detach_volume(server_id, volume_id, _SOON, Cancel())
        except BuildFailed as error:
            _log.warning("guest_keeps_lost_volume", server=server_id, reason=error.message)
        parts.faults.reach("refresh_interfaces.detach_volume.after")
    if active and record.whole and (lost := record.volumes.keys() - has):
        _give_back(parts, record.spec, lost)


def _give_back(parts: Parts, spec: BuildSpec, lost: Set[str]) -> None:
    """Those of them that are its still."""
    message = ServerVolumes(host=parts.host, server_id=spec.server_id, connector=parts.driver.connector())
    for volume in parts.ask("server_volumes", message, BlockDevices).volumes:
        if volume.volume_id not in lost:
            continue
        _log.info("volume_is_given_back", volume=volume.volume_id, server=spec.server_id)
        try:
            parts.driver.attach_volume(spec, volume)
        except BuildFailed as error:
            _log.warning("guest_lacks_volume", server=spec.server_id, reason=error.message)
        parts.faults.reach("refresh_interfaces.attach_volume.after")
