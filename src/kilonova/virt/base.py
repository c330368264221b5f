"""The driver's protocol: what a compute asks of its hypervisor.

Every method that changes something looks first and does only what is missing, so that calling it twice is
safe (invariant 4). All names on the host come from the server's UUID (invariant 5). A driver keeps nothing
that it could not find again on the host after kill -9.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import BinaryIO, Protocol

import msgspec

from kilonova.cancel import Cancel
from kilonova.domain.block_devices import AttachedVolume
from kilonova.domain.diagnostics import Diagnostics
from kilonova.domain.hosts import HostReport
from kilonova.domain.network import Vif
from kilonova.domain.servers import BuildSpec, DevicePlace, GuestMetadata, ImageLocation, ImageRef, PowerState
from kilonova.domain.volumes import CopyState, HostConnector

Volumes = Sequence[AttachedVolume]
"""All that a guest is to have when it starts."""


class Guest(msgspec.Struct, frozen=True, kw_only=True):
    """One guest that exists on the host, whatever the database says of it."""

    server_id: str
    power_state: PowerState
    awaits_start: bool = False
    """Started paused by a build and not yet resumed by it (the pause is ours, not a user's)."""


class GuestEvent(msgspec.Struct, frozen=True, kw_only=True):
    """The hypervisor says that a guest's power state changed, whoever did it."""

    server_id: str
    power_state: PowerState


class Driver(Protocol):
    """Raises BuildFailed (another host may do), BuildAborted (none can), Unavailable (hypervisor away).

    ``cancel`` is set when the operation moved on: long work stops soon and raises StaleEpoch.
    """

    def start(self, on_event: Callable[[GuestEvent], None]) -> None:
        """Connect, and report every later change of a guest's power state to ``on_event`` (any thread)."""

    def stop(self) -> None:
        """Disconnect; guests go on."""

    def check(self) -> None:
        """Unavailable, saying why, while the hypervisor is away. At once: it asks nobody."""

    def report(self) -> HostReport:
        """What this host is and can hold."""

    def host_uptime(self) -> str:
        """Since when this host is up, as the command ``uptime`` says it; empty where nothing does."""

    def connector(self) -> HostConnector:
        """This host, as those know it who keep volumes."""

    def guests(self) -> list[Guest]:
        """Every guest of ours on this host, running or not."""

    def guest(self, server_id: str) -> Guest | None: ...

    def leftovers(self) -> set[str]:
        """Server ids that have anything on this host: a domain, a folder, a disk. guests() and more."""

    # The build, in the order of the document: create_image, get_guest_xml, create_domain.
    def ensure_base_image(self, spec: BuildSpec, cancel: Cancel) -> None:
        """The image is on this host, verified: fetched once however many builds wait for it."""

    def ensure_disks(self, spec: BuildSpec, cancel: Cancel) -> str:
        """System disk, ephemeral and swap exist: how the first was made (``overlay``, ``clone``, ``copy``,
        ``blank``); empty if it was there, or there is none."""

    def ensure_config_drive(self, spec: BuildSpec, metadata: GuestMetadata) -> None:
        """The config drive exists (called only if the server has one)."""

    def ensure_paused(self, spec: BuildSpec, vifs: list[Vif], volumes: Volumes = ()) -> None:
        """The domain is defined and started, paused: no guest runs before the database agreed."""

    def resume_build(self, server_id: str) -> None:
        """Let a guest that ensure_paused() started run; nothing if it runs already."""

    def wait_for_running(self, server_id: str, timeout: float) -> None:
        """Returns when the event says RUNNING. BuildFailed when it stops, or after ``timeout`` seconds."""

    def destroy(self, server_id: str) -> None:
        """Domain, disks and folder are gone. The undo of all the above."""

    # Images, between builds.
    def cache_image(self, image: ImageRef, cancel: Cancel) -> None:
        """The image is on this host before a server asks for it. What a build does, with the same errors."""

    def tidy_images(self) -> None:
        """Images that nobody has used for long, or that there is no more space for, are gone, unless a disk
        is based on them."""

    # A life afterwards. NotFound if there is no such guest; BuildFailed says what libvirt said.
    def power_on(self, spec: BuildSpec, vifs: list[Vif], volumes: Volumes = ()) -> None:
        """Running, from power off; defines the domain again if it is missing."""

    def power_off(self, server_id: str, timeout: float, cancel: Cancel) -> None:
        """Ask by ACPI, wait ``timeout`` seconds (by event), then pull the plug. 0: at once."""

    def reboot(
        self, spec: BuildSpec, vifs: list[Vif], hard: bool, cancel: Cancel, volumes: Volumes = ()
    ) -> None:
        """Soft: ask the guest; hard if it does not answer in time. Hard: destroy and start anew."""

    def pause(self, server_id: str) -> None: ...

    def unpause(self, server_id: str) -> None: ...

    def suspend(self, server_id: str) -> None:
        """Memory to disk (managed save); uses no memory after."""

    def resume(self, spec: BuildSpec, vifs: list[Vif], volumes: Volumes = ()) -> None:
        """From suspend: running where it was."""

    # Its NICs, by the names of their taps, which the network part makes before and removes after.
    def interfaces(self, server_id: str) -> dict[str, bool]:
        """Tap → whether its link is up: what the guest has now, or would start with. Empty: no guest."""

    def attach_interface(self, spec: BuildSpec, vif: Vif) -> None:
        """The guest has this NIC: at once if it runs or is paused, else when it is started next."""

    def detach_interface(self, server_id: str, tap: str, patience: float, cancel: Cancel) -> None:
        """The guest has no such NIC. One that runs must let go of it: BuildFailed if it did not within
        ``patience`` seconds, and if it is paused; it has it on then. Nothing without such a guest."""

    def set_link(self, server_id: str, tap: str, up: bool) -> None:
        """Plug the cable of a NIC in, or pull it: nothing passes while it is down."""

    def places(self, server_id: str) -> dict[str, DevicePlace]:
        """A NIC's MAC, a disk's serial number or its path in the guest → where it is, if that has an address
        that means something to the guest. Empty: no guest."""

    # Its volumes, by their ids. What is a volume of a guest that is on is its until it let go of it.
    def volumes(self, server_id: str) -> set[str]:
        """What the guest has now, or would start with. Empty: no guest."""

    def attach_volume(self, spec: BuildSpec, volume: AttachedVolume) -> None:
        """The guest has this volume: at once if it runs or is paused, else when it is started next."""

    def detach_volume(self, server_id: str, volume_id: str, patience: float, cancel: Cancel) -> None:
        """The guest has no such volume; else as detach_interface()."""

    def mirror_volume(
        self, spec: BuildSpec, volume_id: str, new: AttachedVolume, timeout: float, cancel: Cancel
    ) -> None:
        """``new`` holds all that the volume of the guest, which is on, does, and what the guest writes from
        now on is written to both, until swap_volume() or end_mirrors(), whatever is raised here. Another copy
        of it is ended first. Nothing if the guest has the new one already. BuildFailed, also after
        ``timeout`` seconds."""

    def swap_volume(self, server_id: str, volume_id: str, new_id: str) -> None:
        """The guest goes on with the other one, to which it was copied. BuildFailed: it was not. Nothing if
        the guest has it already."""

    def end_mirrors(self, server_id: str) -> None:
        """Of none of its volumes a copy is under way: nothing more is written to them. Nothing without such a
        guest."""

    def copy_volume(
        self,
        server_id: str,
        volume_id: str,
        to: AttachedVolume,
        begin: bool,
        patience: float,
        in_order: bool = False,
    ) -> CopyState:
        """All that the volume holds, copied to a place that is as large while the guest goes on; from the
        start if ``begin``. COPIED: all is there of one moment just now, in which file systems were in order
        if the guest has an agent. GOING: it was not there after ``patience`` seconds. BuildFailed: it broke
        off, or file systems were not ``in_order``. Unavailable: another copy of the volume is under way.
        ``to``: known by its ``volume_id``."""

    def hold_still(self, server_id: str, by: str, seconds: float, in_order: bool = False) -> bool:
        """A guest that runs, and has an agent, has nothing left to write until go_on() by the same, or until
        so many seconds are over. False: there is none such; BuildFailed if it runs and cannot, where it must
        be ``in_order``. Unavailable: it is held by others for long."""

    def go_on(self, server_id: str, by: str) -> bool:
        """It may write again: whether it was held until now."""

    def drop_copy(self, server_id: str, volume_id: str, to_id: str) -> None:
        """The guest does not copy the volume to that place. Safe to call again."""

    def resize_volume(self, server_id: str, volume_id: str, size_gb: int) -> None:
        """The guest sees that the volume has grown. Nothing if it knows, or if it is off."""

    # Another disk to boot from, for a while.
    def rescue(
        self,
        spec: BuildSpec,
        image: ImageRef,
        vifs: list[Vif],
        metadata: GuestMetadata | None,
        cancel: Cancel,
        volumes: Volumes = (),
    ) -> None:
        """Running from a disk of that image, which was cached, or from the image if it is a CD; with its own
        system disk beside it, or all its disks and volumes in their places if the image says how it wants to
        be there (``hw_rescue_device``, ``hw_rescue_bus``). ``metadata``: for the config drive meanwhile."""

    def unrescue(self, spec: BuildSpec, vifs: list[Vif], volumes: Volumes = ()) -> None:
        """Running from its own disk again; the other one is gone."""

    # What it holds, for an image.
    def take_snapshot(self, server_id: str, cancel: Cancel, in_order: bool = False) -> None:
        """All that is on its system disk at one moment, kept beside it; what was kept before is gone. A guest
        that runs goes on; if it has an agent, its file systems are in order then. BuildFailed, also where
        they must be ``in_order`` and cannot."""

    def snapshot_location(self, server_id: str) -> ImageLocation | None:
        """Where in Ceph what was taken can be read; None if it is kept elsewhere, or nothing is."""

    def open_snapshot(self, server_id: str, cancel: Cancel) -> BinaryIO:
        """What was taken, as a qcow2 that needs no other file; it may have to be made now. NotFound if
        nothing is kept."""

    def drop_snapshot(self, server_id: str) -> None:
        """Nothing is kept, and nothing is being taken. Safe to call again."""

    def mend(self) -> None:
        """What could not be done to guests when it was due is tried again. To be called every few seconds."""

    def diagnostics(self, server_id: str) -> Diagnostics:
        """What a guest that is on has used and moved. Conflict if it is off."""

    def console_output(self, server_id: str, lines: int | None) -> str:
        """The last ``lines`` lines (all that are kept if None) of the serial console."""
