"""A hypervisor that only remembers: for tests, for measurements, and for many hosts in one process.

It keeps the whole contract of virt.base.Driver, events included (told in the thread that caused them), and
has knobs (config.fake): seconds that a method takes, and how often it fails, by the method's name.
With a ``folder`` its guests survive the process, one small file a guest, as real ones would.
"""

from __future__ import annotations

import io
import random
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import msgspec

from kilonova.cancel import Cancel
from kilonova.config import Config
from kilonova.domain import codec
from kilonova.domain.block_devices import AttachedVolume
from kilonova.domain.diagnostics import Diagnostics, NicUse
from kilonova.domain.errors import BuildAborted, BuildFailed, Conflict, NotFound, StaleEpoch, Unavailable
from kilonova.domain.hosts import Capacity, HostReport
from kilonova.domain.machine import this_machine
from kilonova.domain.network import Vif
from kilonova.domain.servers import BuildSpec, DevicePlace, GuestMetadata, ImageLocation, ImageRef, PowerState
from kilonova.domain.volumes import CopyState, HostConnector
from kilonova.virt.base import Guest, GuestEvent, Volumes
from kilonova.virt.ids import checked_id

_ACTIVE = (PowerState.RUNNING, PowerState.PAUSED)
_EMPTY_QCOW2 = struct.pack(
    ">4sIQIIQIIQQIIQQQQII", b"QFI\xfb", 3, 0, 0, 16, 1 << 20, 0, 1, 0x30000, 0x10000, 1, 0, 0, 0, 0, 0, 4, 104
).ljust(0x40000, b"\0")
"""Version 3, clusters of 64 KiB, 1 MiB of zeros; https://gitlab.com/qemu-project/qemu, docs/interop/qcow2."""
_BOOT = "".join(f"[{second:6.1f}] a fake guest boots\n" for second in range(16))


class _Traces(msgspec.Struct, gc=False):
    """What a server has on the host. ``power_state`` None: disks, but no domain."""

    has_disks: bool = False
    power_state: PowerState | None = None
    awaits_start: bool = False
    nics: dict[str, bool] = {}
    """Tap → whether its link is up."""
    volumes: dict[str, int] = {}
    """Volume → GiB, as the guest knows it."""
    mirrors: dict[str, str] = {}
    """Volume → the one that all of it is being copied to."""
    has_snapshot: bool = False
    rescue_image: str = ""


class FakeDriver:
    """One fake host. Safe to call from many threads."""

    def __init__(
        self,
        host: str,
        config: Config,
        rand: Callable[[], float] = random.random,
        folder: Path | None = None,
    ) -> None:
        self.host = host
        self._seconds = config.fake.step_seconds
        self._failures = config.fake.step_failures
        self._total = Capacity(
            vcpus=config.fake.vcpus, memory_mb=config.fake.memory_mb, disk_gb=config.fake.disk_gb
        )
        self._rand = rand
        self._folder = folder
        self._stopped = threading.Event()
        self._changed = threading.Condition()
        self._images: set[str] = set()
        self._servers: dict[str, _Traces] = {} if folder is None else _load(folder)
        self._report: Callable[[GuestEvent], None] = _nobody

    # --- the host
    def start(self, on_event: Callable[[GuestEvent], None]) -> None:
        self._stopped.clear()
        self._report = on_event

    def stop(self) -> None:
        self._stopped.set()
        self._report = _nobody

    def check(self) -> None:
        if self._stopped.is_set():
            raise Unavailable(f"the fake hypervisor of {self.host} was stopped")

    def report(self) -> HostReport:
        return HostReport(
            hypervisor_hostname=self.host,
            hypervisor_type="fake",
            hypervisor_version=1,
            host_ip="127.0.0.1",
            total=self._total,
            virt_type="fake",
            disk_available_least=self._total.disk_gb,
        )

    def connector(self) -> HostConnector:
        return HostConnector(
            ip="127.0.0.1", initiator=f"iqn.2026-01.org.kilonova:{self.host}", machine=this_machine()
        )

    def guests(self) -> list[Guest]:
        with self._changed:
            return [guest for i, had in self._servers.items() if (guest := _guest(i, had)) is not None]

    def guest(self, server_id: str) -> Guest | None:
        with self._changed:
            had = self._servers.get(server_id)
            return None if had is None else _guest(server_id, had)

    def leftovers(self) -> set[str]:
        with self._changed:
            return set(self._servers)

    # --- the build
    def ensure_base_image(self, spec: BuildSpec, cancel: Cancel) -> None:
        if spec.image is not None and spec.image.id not in self._images:
            self._step("ensure_base_image", cancel)
            self._images.add(spec.image.id)
        if cancel.is_set():
            raise StaleEpoch(f"the build of {spec.server_id} moved on")

    def ensure_disks(self, spec: BuildSpec, cancel: Cancel) -> str:
        self._step("ensure_disks")
        if spec.image is not None and spec.image.id not in self._images:
            raise BuildFailed(f"image {spec.image.id} is not on this host")
        if spec.image is None and not spec.boots_from_volume and not spec.flavor.root_gb:
            raise BuildAborted("a server without an image needs a flavor with a disk")
        had = self._servers.get(spec.server_id)
        self._update(spec.server_id, has_disks=True)
        return "" if had is not None and had.has_disks else "overlay"

    def ensure_config_drive(self, spec: BuildSpec, metadata: GuestMetadata) -> None:
        self._step("ensure_config_drive")
        self._update(spec.server_id)

    def ensure_paused(self, spec: BuildSpec, vifs: list[Vif], volumes: Volumes = ()) -> None:
        self._step("ensure_paused")
        with self._changed:
            had = self._servers.get(spec.server_id)
            if had is not None and had.power_state in _ACTIVE:
                return
            if had is None or not had.has_disks:
                raise BuildFailed(f"guest {spec.server_id} has no disk")
            self._update(
                spec.server_id,
                power_state=PowerState.PAUSED,
                awaits_start=True,
                nics=_nics(vifs),
                volumes=_sizes(volumes),
            )

    def resume_build(self, server_id: str) -> None:
        self._step("resume_build")
        with self._changed:
            if not self._get(server_id).awaits_start:
                return
            self._update(server_id, power_state=PowerState.RUNNING, awaits_start=False)
        self._tell(server_id, PowerState.RUNNING)

    def wait_for_running(self, server_id: str, timeout: float) -> None:
        self._step("wait_for_running")
        with self._changed:
            if not self._changed.wait_for(lambda: self._runs(server_id), timeout):
                raise BuildFailed(f"guest {server_id} was not running after {timeout:g} s")

    def destroy(self, server_id: str) -> None:
        self._step("destroy")
        with self._changed:
            self._servers.pop(server_id, None)
            if self._folder is not None:
                self._file(server_id).unlink(missing_ok=True)
            self._changed.notify_all()

    # --- images
    def cache_image(self, image: ImageRef, cancel: Cancel) -> None:
        if image.id not in self._images:
            self._step("ensure_base_image", cancel)
            self._images.add(image.id)

    def tidy_images(self) -> None:
        """Its images take no space."""

    # --- a life afterwards
    def power_on(self, spec: BuildSpec, vifs: list[Vif], volumes: Volumes = ()) -> None:
        self._step("power_on")
        if not self._is(spec.server_id, PowerState.RUNNING, PowerState.SUSPENDED):
            self._update(spec.server_id, nics=_nics(vifs), volumes=_sizes(volumes))
        self._become(spec.server_id, PowerState.RUNNING, create=True)

    def power_off(self, server_id: str, timeout: float, cancel: Cancel) -> None:
        self._step("power_off", cancel)
        self._become(server_id, PowerState.SHUTDOWN)

    def reboot(
        self, spec: BuildSpec, vifs: list[Vif], hard: bool, cancel: Cancel, volumes: Volumes = ()
    ) -> None:
        self._step("reboot", cancel)
        with self._changed:
            self._get(spec.server_id)
            self._update(spec.server_id, nics=_nics(vifs), volumes=_sizes(volumes))
        self._become(spec.server_id, PowerState.RUNNING)

    def pause(self, server_id: str) -> None:
        self._step("pause")
        self._become(server_id, PowerState.PAUSED, only_if=_ACTIVE)

    def unpause(self, server_id: str) -> None:
        self._step("unpause")
        self._become(server_id, PowerState.RUNNING, only_if=_ACTIVE)

    def suspend(self, server_id: str) -> None:
        self._step("suspend")
        self._become(server_id, PowerState.SUSPENDED, only_if=(*_ACTIVE, PowerState.SUSPENDED))

    def resume(self, spec: BuildSpec, vifs: list[Vif], volumes: Volumes = ()) -> None:
        self._step("resume")
        self._become(spec.server_id, PowerState.RUNNING)

    # --- its NICs
    def interfaces(self, server_id: str) -> dict[str, bool]:
        with self._changed:
            had = self._servers.get(server_id)
            return {} if had is None or had.power_state is None else dict(had.nics)

    def places(self, server_id: str) -> dict[str, DevicePlace]:
        return {}

    def attach_interface(self, spec: BuildSpec, vif: Vif) -> None:
        self._step("attach_interface")
        with self._changed:
            nics = self._get(spec.server_id).nics
            if vif.tap not in nics:
                self._update(spec.server_id, nics={**nics, vif.tap: vif.admin_state_up})

    def detach_interface(self, server_id: str, tap: str, patience: float, cancel: Cancel) -> None:
        self._step("detach_interface", cancel)
        with self._changed:
            nics = self.interfaces(server_id)
            if nics.pop(tap, None) is None:
                return
            if self._is(server_id, PowerState.PAUSED):
                raise BuildFailed(f"guest {server_id} is paused, and cannot let go of a device")
            self._update(server_id, nics=nics)

    def set_link(self, server_id: str, tap: str, up: bool) -> None:
        self._step("set_link")
        with self._changed:
            nics = self._get(server_id).nics
            if tap not in nics:
                raise NotFound(f"guest {server_id} has no interface {tap}")
            self._update(server_id, nics={**nics, tap: up})

    # --- its volumes
    def volumes(self, server_id: str) -> set[str]:
        return set(self.volume_sizes(server_id))

    def volume_sizes(self, server_id: str) -> dict[str, int]:
        """Volume → GiB that the guest believes it has; 0: as large as it was when it came."""
        with self._changed:
            had = self._servers.get(server_id)
            return {} if had is None or had.power_state is None else dict(had.volumes)

    def attach_volume(self, spec: BuildSpec, volume: AttachedVolume) -> None:
        self._step("attach_volume")
        with self._changed:
            volumes = self._get(spec.server_id).volumes
            if volume.volume_id not in volumes:
                self._update(spec.server_id, volumes={**volumes, volume.volume_id: 0})

    def detach_volume(self, server_id: str, volume_id: str, patience: float, cancel: Cancel) -> None:
        self._step("detach_volume", cancel)
        with self._changed:
            volumes = self.volume_sizes(server_id)
            if volumes.pop(volume_id, None) is None:
                return
            if self._is(server_id, PowerState.PAUSED):
                raise BuildFailed(f"guest {server_id} is paused, and cannot let go of a device")
            self._update(server_id, volumes=volumes)

    def mirror_volume(
        self, spec: BuildSpec, volume_id: str, new: AttachedVolume, timeout: float, cancel: Cancel
    ) -> None:
        server_id = spec.server_id
        with self._changed:
            had = self._get(server_id)
            if new.volume_id in had.volumes:
                return
            if not self._is(server_id, *_ACTIVE) or volume_id not in had.volumes:
                raise BuildFailed(f"guest {server_id} has no volume {volume_id} open")
            self._update(server_id, mirrors={**had.mirrors, volume_id: new.volume_id})
        self._step("mirror_volume", cancel)

    def swap_volume(self, server_id: str, volume_id: str, new_id: str) -> None:
        self._step("swap_volume")
        with self._changed:
            had = self._get(server_id)
            volumes, mirrors = dict(had.volumes), dict(had.mirrors)
            if new_id in volumes:
                return
            if mirrors.pop(volume_id, None) != new_id:
                raise BuildFailed(f"no volume of guest {server_id} was copied to {new_id}")
            del volumes[volume_id]
            self._update(server_id, volumes={**volumes, new_id: 0}, mirrors=mirrors)

    def end_mirrors(self, server_id: str) -> None:
        with self._changed:
            if self.mirrors(server_id):
                self._step("end_mirrors")
                self._update(server_id, mirrors={})

    def mirrors(self, server_id: str) -> dict[str, str]:
        """Volume → the one that it is being copied to."""
        with self._changed:
            had = self._servers.get(server_id)
            on = had is not None and had.power_state in _ACTIVE
            return dict(had.mirrors) if had is not None and on else {}

    def copy_volume(
        self,
        server_id: str,
        volume_id: str,
        to: AttachedVolume,
        begin: bool,
        patience: float,
        in_order: bool = False,
    ) -> CopyState:
        """Its guests write nothing: there is nothing to copy that could change meanwhile."""
        self._step("copy_volume")
        with self._changed:
            is_on = self._is(server_id, *_ACTIVE) and volume_id in self._servers[server_id].volumes
            if is_on:
                self._refuse_order(server_id, in_order)
        return CopyState.COPIED if is_on else CopyState.OFF

    def drop_copy(self, server_id: str, volume_id: str, to_id: str) -> None:
        self._step("drop_copy")

    def hold_still(self, server_id: str, by: str, seconds: float, in_order: bool = False) -> bool:
        self._step("hold_still")
        with self._changed:
            if self._is(server_id, *_ACTIVE):
                self._refuse_order(server_id, in_order)
        return False

    def go_on(self, server_id: str, by: str) -> bool:
        self._step("go_on")
        return False

    def _refuse_order(self, server_id: str, in_order: bool) -> None:
        if in_order and self._get(server_id).power_state is PowerState.RUNNING:
            raise BuildFailed(f"guest {server_id} has no agent that holds its file systems still")

    def resize_volume(self, server_id: str, volume_id: str, size_gb: int) -> None:
        self._step("resize_volume")
        with self._changed:
            volumes = self.volume_sizes(server_id)
            if volume_id in volumes and self._is(server_id, *_ACTIVE):
                self._update(server_id, volumes={**volumes, volume_id: size_gb})

    # --- another disk to boot from
    def rescue(
        self,
        spec: BuildSpec,
        image: ImageRef,
        vifs: list[Vif],
        metadata: GuestMetadata | None,
        cancel: Cancel,
        volumes: Volumes = (),
    ) -> None:
        self._step("rescue", cancel)
        with self._changed:
            self._get(spec.server_id)
            self._update(spec.server_id, nics=_nics(vifs), rescue_image=image.id, volumes=_sizes(volumes))
        self._become(spec.server_id, PowerState.RUNNING)

    def unrescue(self, spec: BuildSpec, vifs: list[Vif], volumes: Volumes = ()) -> None:
        self._step("unrescue")
        with self._changed:
            self._get(spec.server_id)
            self._update(spec.server_id, nics=_nics(vifs), rescue_image="", volumes=_sizes(volumes))
        self._become(spec.server_id, PowerState.RUNNING)

    # --- what it holds
    def take_snapshot(self, server_id: str, cancel: Cancel, in_order: bool = False) -> None:
        self._step("take_snapshot", cancel)
        with self._changed:
            self._get(server_id)
            self._refuse_order(server_id, in_order)
            self._update(server_id, has_snapshot=True)

    def snapshot_location(self, _server_id: str) -> ImageLocation | None:
        """Its disks are in no Ceph."""
        return None

    def open_snapshot(self, server_id: str, _cancel: Cancel) -> BinaryIO:
        with self._changed:
            had = self._servers.get(server_id)
            if had is None or not had.has_snapshot:
                raise NotFound(f"nothing was taken of {server_id}")
        return io.BytesIO(_EMPTY_QCOW2)

    def drop_snapshot(self, server_id: str) -> None:
        with self._changed:
            had = self._servers.get(server_id)
            if had is not None and had.has_snapshot:
                self._update(server_id, has_snapshot=False)

    def mend(self) -> None:
        """There is nothing that could not be done."""

    def host_uptime(self) -> str:
        return ""

    def diagnostics(self, server_id: str) -> Diagnostics:
        """Its devices; nothing passes them, and it uses nothing."""
        with self._changed:
            had = self._get(server_id)
            if had.power_state not in _ACTIVE:
                raise Conflict(f"guest {server_id} is off")
            nics = [NicUse(device=tap) for tap in had.nics]
        return Diagnostics(driver="fake", hypervisor="fake", hypervisor_os="fake", nics=nics)

    def console_output(self, server_id: str, lines: int | None) -> str:
        with self._changed:
            self._get(server_id)
        text = f"{_BOOT}{server_id} login: "
        if lines is None:
            return text
        return "\n".join(text.split("\n")[-lines:]) if lines > 0 else ""

    def guest_stops(self, server_id: str, power_state: PowerState = PowerState.SHUTDOWN) -> None:
        """For tests: the guest stops by itself, as after ``poweroff`` inside or a killed QEMU."""
        self._become(server_id, power_state)

    # --- inside
    def _step(self, name: str, cancel: threading.Event | None = None) -> None:
        """The knobs: take the time, perhaps fail."""
        seconds = self._seconds.get(name, 0.0)
        if seconds > 0 and (cancel or self._stopped).wait(seconds):
            if cancel is not None:
                raise StaleEpoch(f"{name}: the operation moved on")
            raise Unavailable(f"{name}: the driver was stopped")
        share = self._failures.get(name, 0.0)
        if share > 0 and self._rand() < share:
            raise BuildFailed(f"{name} failed, as the fake driver was told to")

    def _become(
        self,
        server_id: str,
        state: PowerState,
        *,
        only_if: tuple[PowerState, ...] | None = None,
        create: bool = False,
    ) -> None:
        with self._changed:
            had = self._servers.get(server_id) if create else self._get(server_id)
            before = had.power_state if had is not None else None
            if only_if is not None and before not in only_if:
                raise BuildFailed(f"guest {server_id} is {before.name if before is not None else 'gone'}")
            self._update(server_id, power_state=state, awaits_start=False)
        if before is not state:
            self._tell(server_id, state)

    def _update(
        self,
        server_id: str,
        *,
        has_disks: bool | None = None,
        power_state: PowerState | None = None,
        awaits_start: bool | None = None,
        nics: dict[str, bool] | None = None,
        volumes: dict[str, int] | None = None,
        mirrors: dict[str, str] | None = None,
        has_snapshot: bool | None = None,
        rescue_image: str | None = None,
    ) -> None:
        """Change what is given; remember it in the folder; wake who waits."""
        with self._changed:
            had = self._servers.get(server_id)
            if had is None:
                had = _Traces()
            if has_disks is not None:
                had.has_disks = has_disks
            if power_state is not None:
                had.power_state = power_state
            if awaits_start is not None:
                had.awaits_start = awaits_start
            if nics is not None:
                had.nics = nics
            if volumes is not None:
                had.volumes = volumes
            if mirrors is not None:
                had.mirrors = mirrors
            if has_snapshot is not None:
                had.has_snapshot = has_snapshot
            if rescue_image is not None:
                had.rescue_image = rescue_image
            if self._folder is not None:
                path = self._file(server_id)
                part = path.with_suffix(".part")
                part.write_bytes(msgspec.json.encode(had))
                part.rename(path)
            self._servers[server_id] = had
            self._changed.notify_all()

    def _is(self, server_id: str, *states: PowerState) -> bool:
        had = self._servers.get(server_id)
        return had is not None and had.power_state in states

    def _get(self, server_id: str) -> _Traces:
        had = self._servers.get(server_id)
        if had is None or had.power_state is None:
            raise NotFound(f"there is no guest {server_id} on this host")
        return had

    def _runs(self, server_id: str) -> bool:
        had = self._servers.get(server_id)
        if had is None or had.power_state is None:
            raise BuildFailed(f"guest {server_id} is gone")
        if had.power_state not in _ACTIVE:
            raise BuildFailed(f"guest {server_id} stopped ({had.power_state.name}) instead of running")
        return had.power_state is PowerState.RUNNING

    def _tell(self, server_id: str, state: PowerState) -> None:
        self._report(GuestEvent(server_id=server_id, power_state=state))

    def _file(self, server_id: str) -> Path:
        assert self._folder is not None
        return self._folder / f"{checked_id(server_id)}.json"


def _nics(vifs: list[Vif]) -> dict[str, bool]:
    return {vif.tap: vif.admin_state_up for vif in vifs}


def _sizes(volumes: Volumes) -> dict[str, int]:
    return {volume.volume_id: 0 for volume in volumes}


def _guest(server_id: str, had: _Traces) -> Guest | None:
    if had.power_state is None:
        return None
    return Guest(server_id=server_id, power_state=had.power_state, awaits_start=had.awaits_start)


def _load(folder: Path) -> dict[str, _Traces]:
    folder.mkdir(parents=True, exist_ok=True)
    return {p.stem: codec.from_json(p.read_bytes(), _Traces) for p in folder.glob("*.json")}


def _nobody(_event: GuestEvent) -> None:
    """Who is told before start() and after stop()."""
