"""The libvirt driver. See virt.base.Driver for the contract.

The work is next door: paths in folder, images and disks, the document in xml/, domains in guests, events in
watch. Here is the order in which it happens. Nothing is kept that is not found again on the host.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from msgspec import structs

from kilonova import log
from kilonova.cancel import Cancel
from kilonova.config import Config
from kilonova.disk_image import qemu_img
from kilonova.domain.block_devices import AttachedVolume
from kilonova.domain.diagnostics import Diagnostics
from kilonova.domain.errors import BadRequest, BuildFailed, KilonovaError, NotFound, Unavailable
from kilonova.domain.hosts import HostReport
from kilonova.domain.network import Vif
from kilonova.domain.servers import BuildSpec, DevicePlace, GuestMetadata, ImageLocation, ImageRef, PowerState
from kilonova.domain.volumes import CopyState, HostConnector
from kilonova.virt.base import Guest, GuestEvent, Volumes
from kilonova.virt.libvirt import (
    cached,
    config_drive,
    console,
    diagnostics,
    disk,
    embed,
    emulator,
    host,
    kvm,
    secret_store,
)
from kilonova.virt.libvirt.connection import Connection
from kilonova.virt.libvirt.disk.base import FileSource, Name, is_cdrom
from kilonova.virt.libvirt.disk.devices import own_devices, rescue_devices
from kilonova.virt.libvirt.errors import translated
from kilonova.virt.libvirt.folder import Folder, Instance, server_of
from kilonova.virt.libvirt.guests import Guests
from kilonova.virt.libvirt.hardware import hardware
from kilonova.virt.libvirt.images import ImageCache, ImageSource
from kilonova.virt.libvirt.rescue import Rescue, way_of_rescue
from kilonova.virt.libvirt.short_path import ShortPath
from kilonova.virt.libvirt.snapshot import Snapshots
from kilonova.virt.libvirt.still import Stillness
from kilonova.virt.libvirt.volume_copies import VolumeCopies
from kilonova.virt.libvirt.volumes import GuestVolumes
from kilonova.virt.libvirt.watch import Watch
from kilonova.virt.libvirt.xml import interface, places
from kilonova.virt.libvirt.xml.build import to_text
from kilonova.virt.libvirt.xml.domain import domain as domain_xml
from kilonova.virt.libvirt.xml.volume import VolumeDevice

SOFT_REBOOT_SECONDS = 120.0
_ACTIVE = (PowerState.RUNNING, PowerState.PAUSED)
_PRESS_AGAIN_SECONDS = 10.0
_CACHE_MODES = ("none", "writethrough", "writeback", "directsync", "unsafe")
_VIRT_TYPES = ("auto", "kvm", "qemu")
_log = log.get("virt.libvirt")


class LibvirtDriver:
    """One host's guests. ``folder`` holds all that the driver writes; see virt.libvirt.folder.

    ``say`` hears what the one who starts it should know.
    """

    def __init__(
        self,
        config: Config,
        folder: Path,
        images: ImageSource,
        say: Callable[[str], None] = lambda _line: None,
    ) -> None:
        self._config = config
        self._say = say
        self._folder = Folder(folder)
        self._folder.make()
        reserve = config.compute.reserved_host_disk_mb << 20
        self._images = ImageCache(self._folder, images, self._bases_in_use, reserve=reserve)
        name = config.host or socket.gethostname()
        self._disks = disk.backend(config, self._folder, self._images, name)
        self._report: Callable[[GuestEvent], None] = lambda _event: None
        self._short = ShortPath(self._folder.root)
        uri = config.libvirt.uri or f"qemu:///embed?root={quote(str(self._short.path / 'embed'))}"
        self._watch = Watch(self._tell)
        self._connection = Connection(
            uri, self._came_back, self._watch.wake_all, self._lifecycle, self._device
        )
        self._guests = Guests(self._connection, self._folder)
        self._stillness = Stillness(self._folder, self._guests)
        self._snapshots = Snapshots(self._folder, self._disks, self._guests, self._watch, self._stillness)
        secrets = secret_store.store(self._connection, self._folder.root)
        self._volumes = GuestVolumes(secrets, self._guests, self._watch, config.libvirt, name)
        self._volume_copies = VolumeCopies(self._guests, self._watch, self._volumes, self._stillness.still)
        self._keeper = console.Keeper(self._console_logs)
        self._capabilities: str | None = None
        self._cache_mode = _cache_mode(config, self._folder)
        self._virt_type = _virt_type(config)

    # --- the host
    def start(self, on_event: Callable[[GuestEvent], None]) -> None:
        self._report = on_event
        self._short.make()
        top = Path(self._config.state).absolute()
        if self._connection.is_embedded:
            user = embed.configure(self._folder, top, self._say)
            self._choose_virt_type(user)
            emulator.choose(self._folder, user)
        else:
            embed.open_way_for_qemu(self._folder, top, self._say)
            self._choose_virt_type(embed.qemu_user())
        try:
            self._connection.open()
        except Unavailable:
            self._short.remove()
            raise
        self._settle()
        self._watch.start()
        self._keeper.start()

    def stop(self) -> None:
        self._stillness.stop()
        self._keeper.stop()
        self._connection.close()
        self._watch.wake_all()  # who waits for a guest sees that the connection is gone
        self._watch.stop()
        self._disks.close()
        self._short.remove()

    def check(self) -> None:
        self._connection.get()

    def report(self) -> HostReport:
        connection = self._connection.get()
        with translated("read the hypervisor's capabilities"):
            version = connection.getVersion()
            if self._capabilities is None:
                self._capabilities = connection.getCapabilities()
        space = self._disks.space()
        return HostReport(
            hypervisor_hostname=self._config.host or socket.gethostname(),
            hypervisor_type="QEMU",
            hypervisor_version=version,
            host_ip=host.host_ip(),
            total=host.capacity(space.total_gb),
            cpu_info=host.cpu_info(self._capabilities),
            virt_type=self._virt_type,
            disk_available_least=space.free_gb,
        )

    def host_uptime(self) -> str:
        return host.uptime()

    def connector(self) -> HostConnector:
        return self._volumes.connector()

    def guests(self) -> list[Guest]:
        return self._guests.all()

    def guest(self, server_id: str) -> Guest | None:
        view = self._guests.look(server_id)
        return None if view is None else view.guest

    def leftovers(self) -> set[str]:
        return self._disks.server_ids() | {guest.server_id for guest in self.guests()}

    # --- the build
    def ensure_base_image(self, spec: BuildSpec, cancel: Cancel) -> None:
        hardware(spec)  # a wish that cannot be met is better refused before gigabytes are fetched
        if spec.image is not None:
            self.cache_image(spec.image, cancel)

    def ensure_disks(self, spec: BuildSpec, cancel: Cancel) -> str:
        self._instance(spec)
        made = "" if spec.boots_from_volume else self._disks.ensure_system(spec, cancel)
        self._disks.ensure_ephemeral(spec)
        self._disks.ensure_swap(spec)
        return made

    def ensure_config_drive(self, spec: BuildSpec, metadata: GuestMetadata) -> None:
        self._write_config_drive(self._instance(spec).config_drive, metadata)

    def ensure_paused(self, spec: BuildSpec, vifs: list[Vif], volumes: Volumes = ()) -> None:
        view = self._guests.look(spec.server_id)
        if view is not None and view.is_active:
            return
        # Before the domain is started, so that after a crash the pause is known to be ours.
        self._instance(spec).awaits_start.touch()
        with self._volumes.lent(spec.server_id, volumes) as devices:
            self._define(spec, vifs, devices)
            self._guests.create(spec.server_id, paused=True, fresh=True)

    def resume_build(self, server_id: str) -> None:
        marker = self._folder.instance(server_id).awaits_start
        if marker.exists():
            self._guests.let_run(server_id)
            marker.unlink(missing_ok=True)

    def wait_for_running(self, server_id: str, timeout: float) -> None:
        if not self._watch.wait(server_id, lambda: self._runs(server_id), timeout):
            raise BuildFailed(f"guest {server_id} was not running after {timeout:g} s")

    def destroy(self, server_id: str) -> None:
        self._guests.undefine(server_id)
        self._disks.remove_all(server_id)

    # --- images
    def cache_image(self, image: ImageRef, cancel: Cancel) -> None:
        if self._disks.needs_file(image):
            self._images.ensure(image, cancel)

    def tidy_images(self) -> None:
        rules = self._config.image_cache
        if not rules.remove_unused_base_images:
            return
        age = 0 if self._images.is_short else rules.remove_unused_original_minimum_age_seconds
        self._images.remove_unused(age)

    # --- a life afterwards
    def power_on(self, spec: BuildSpec, vifs: list[Vif], volumes: Volumes = ()) -> None:
        view = self._guests.look(spec.server_id)
        if view is not None and view.power_state is PowerState.RUNNING:
            return
        with self._volumes.lent(spec.server_id, volumes) as devices:
            if view is None or view.power_state is not PowerState.SUSPENDED:
                self._define(spec, vifs, devices)
            self._guests.create(spec.server_id)
        self._let_run(spec.server_id)

    def power_off(self, server_id: str, timeout: float, cancel: Cancel) -> None:
        if timeout > 0 and self._shut_down(server_id, timeout, cancel):
            return
        self._guests.pull_plug(server_id)

    def reboot(
        self, spec: BuildSpec, vifs: list[Vif], hard: bool, cancel: Cancel, volumes: Volumes = ()
    ) -> None:
        if hard or not self._shut_down(spec.server_id, SOFT_REBOOT_SECONDS, cancel):
            self._guests.pull_plug(spec.server_id)
        with self._volumes.lent(spec.server_id, volumes) as devices:
            self._define(spec, vifs, devices)
            self._guests.create(spec.server_id, fresh=True)
        self._let_run(spec.server_id)

    def pause(self, server_id: str) -> None:
        self._folder.instance(server_id).awaits_start.unlink(missing_ok=True)  # from now it is the user's
        self._guests.pause(server_id)

    def unpause(self, server_id: str) -> None:
        self._let_run(server_id)

    def suspend(self, server_id: str) -> None:
        self._guests.save(server_id)

    def resume(self, spec: BuildSpec, vifs: list[Vif], volumes: Volumes = ()) -> None:
        with self._volumes.lent(spec.server_id, volumes):
            self._guests.create(spec.server_id)
        self._let_run(spec.server_id)

    # --- its NICs
    def interfaces(self, server_id: str) -> dict[str, bool]:
        document = self._guests.document(server_id)
        return {} if document is None else interface.links(document)

    def attach_interface(self, spec: BuildSpec, vif: Vif) -> None:
        self._guests.get(spec.server_id)
        if vif.tap not in self.interfaces(spec.server_id):
            nic = interface.interface(vif, hardware(spec).vif_model)
            self._guests.attach(spec.server_id, to_text(nic), "an interface")

    def detach_interface(self, server_id: str, tap: str, patience: float, cancel: Cancel) -> None:
        """A guest that does not answer is asked again, as Nova does: it may have been booting."""
        end = time.monotonic() + patience
        again = min(self._config.libvirt.device_detach_timeout, patience)
        find = partial(interface.find, tap=tap)
        while self._guests.ask_to_detach(server_id, find, "an interface"):
            if self._watch.wait(server_id, lambda: self._has_not(server_id, tap), again, cancel):
                return
            if time.monotonic() >= end:
                raise BuildFailed(f"guest {server_id} did not let go of its interface in {patience:g} s")

    def set_link(self, server_id: str, tap: str, up: bool) -> None:
        self._guests.set_link(server_id, tap, up)

    def places(self, server_id: str) -> dict[str, DevicePlace]:
        document = self._guests.document(server_id)
        return {} if document is None else places.of(document)

    # --- its volumes
    def volumes(self, server_id: str) -> set[str]:
        return self._volumes.of(server_id)

    def attach_volume(self, spec: BuildSpec, volume: AttachedVolume) -> None:
        self._volumes.attach(spec, volume)

    def detach_volume(self, server_id: str, volume_id: str, patience: float, cancel: Cancel) -> None:
        self._volumes.detach(server_id, volume_id, patience, cancel)

    def mirror_volume(
        self, spec: BuildSpec, volume_id: str, new: AttachedVolume, timeout: float, cancel: Cancel
    ) -> None:
        self._volumes.mirror(spec, volume_id, new, timeout, cancel)

    def swap_volume(self, server_id: str, volume_id: str, new_id: str) -> None:
        self._volumes.swap(server_id, volume_id, new_id)

    def end_mirrors(self, server_id: str) -> None:
        self._volumes.end_mirrors(server_id)

    def copy_volume(
        self,
        server_id: str,
        volume_id: str,
        to: AttachedVolume,
        begin: bool,
        patience: float,
        in_order: bool = False,
    ) -> CopyState:
        return self._volume_copies.copy(server_id, volume_id, to, begin, patience, in_order)

    def hold_still(self, server_id: str, by: str, seconds: float, in_order: bool = False) -> bool:
        return self._stillness.hold(server_id, by, seconds, in_order)

    def go_on(self, server_id: str, by: str) -> bool:
        return self._stillness.go_on(server_id, by)

    def drop_copy(self, server_id: str, volume_id: str, to_id: str) -> None:
        self._volume_copies.drop(server_id, volume_id, to_id)

    def resize_volume(self, server_id: str, volume_id: str, size_gb: int) -> None:
        self._volumes.resize(server_id, volume_id, size_gb)

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
        self._end_rescue(spec.server_id)  # of one that was cut off, with another image and password
        try:
            self._rescue(spec, image, vifs, metadata, cancel, volumes)
        except KilonovaError:
            with suppress(KilonovaError):
                self._end_rescue(spec.server_id)
            raise

    def unrescue(self, spec: BuildSpec, vifs: list[Vif], volumes: Volumes = ()) -> None:
        self._end_rescue(spec.server_id)
        with self._volumes.lent(spec.server_id, volumes) as devices:
            self._define(spec, vifs, devices)
            self._guests.create(spec.server_id, fresh=True)
        self._let_run(spec.server_id)

    # --- what it holds
    def take_snapshot(self, server_id: str, cancel: Cancel, in_order: bool = False) -> None:
        self._snapshots.drop(server_id)
        source = self._disks.find(server_id, Name.SYSTEM)
        if isinstance(source, FileSource):
            needed = qemu_img.data_bytes(source.path, source.format, cancel)
            self._images.make_room(needed, "what is on the server's disk")
        self._snapshots.take(server_id, cancel, in_order)

    def snapshot_location(self, server_id: str) -> ImageLocation | None:
        return self._disks.held_at(server_id)

    def open_snapshot(self, server_id: str, cancel: Cancel) -> BinaryIO:
        return self._snapshots.open(server_id, cancel)

    def drop_snapshot(self, server_id: str) -> None:
        self._snapshots.drop(server_id)

    def mend(self) -> None:
        self._stillness.thaw_all()

    def diagnostics(self, server_id: str) -> Diagnostics:
        stats = self._guests.statistics(server_id)
        document = self._guests.document(server_id) or ""
        return diagnostics.diagnostics(stats, document, self._virt_type)

    def console_output(self, server_id: str, lines: int | None) -> str:
        instance = self._folder.instance(server_id)
        if not instance.path.exists():
            raise NotFound(f"there is no guest {server_id} on this host")
        return console.tail(instance.console, lines)

    # --- inside
    def _choose_virt_type(self, user: str) -> None:
        """``user``: whom guests run as."""
        reason = "configured"
        if self._config.libvirt.virt_type == "auto":
            verdict = kvm.probe(self._folder.root / "kvm.json", user=user)
            self._virt_type, reason = "kvm" if verdict.usable else "qemu", verdict.reason
        _log.info("virt_type", virt_type=self._virt_type, reason=reason)

    def _bases_in_use(self) -> set[str]:
        """What disks say that they are based on; and what is in CD drives, which only the guests know."""
        named = re.compile(re.escape(f"{self._folder.base}/") + r"([0-9a-f-]+)")
        used = set(cached.users(self._folder))
        for server_id in self._folder.server_ids():
            used.update(named.findall(self._guests.document(server_id) or ""))
        return used

    def _instance(self, spec: BuildSpec) -> Instance:
        instance = self._folder.instance(spec.server_id)
        instance.make()
        return instance

    def _rescue(
        self,
        spec: BuildSpec,
        image: ImageRef,
        vifs: list[Vif],
        metadata: GuestMetadata | None,
        cancel: Cancel,
        volumes: Volumes,
    ) -> None:
        how = way_of_rescue(image, hardware(spec))
        if how.cdrom:
            self._images.ensure(image, cancel)
        else:
            self._disks.ensure_rescue(spec, image, cancel)
        if metadata is not None:
            self._write_config_drive(self._instance(spec).rescue_config_drive, metadata)
        kept = [structs.replace(one, boot_index=None) for one in volumes] if how.stable else []
        with self._volumes.lent(spec.server_id, kept) as devices:
            self._define(spec, vifs, devices, how)
            self._guests.create(spec.server_id, fresh=True)
        self._let_run(spec.server_id)

    def _end_rescue(self, server_id: str) -> None:
        """The guest is off, and what it was to boot from meanwhile is gone."""
        self._guests.pull_plug(server_id)
        self._disks.remove(server_id, Name.RESCUE)
        self._folder.instance(server_id).rescue_config_drive.unlink(missing_ok=True)

    def _write_config_drive(self, path: Path, metadata: GuestMetadata) -> None:
        from kilonova.domain.metadata import config_drive_files

        if not path.exists():
            config_drive.write(path, config_drive_files(metadata, self._config.network.dhcp_domain))

    def _define(
        self,
        spec: BuildSpec,
        vifs: list[Vif],
        volumes: Sequence[VolumeDevice],
        rescue: Rescue | None = None,
    ) -> None:
        instance, machine = self._instance(spec), hardware(spec)
        boot_cd = self._images.path(spec.image) if spec.image and is_cdrom(spec) else None
        instance.boots_from(boot_cd)
        if rescue is None:
            disks = own_devices(self._disks, instance, machine, self._cache_mode, boot_cd)
        else:
            image = self._images.path(rescue.image)
            disks = rescue_devices(self._disks, instance, machine, self._cache_mode, rescue, image)
        document = domain_xml(
            spec,
            vifs,
            instance,
            machine,
            disks=list(disks),
            volumes=volumes,
            virt_type=self._virt_type,
            agent_socket=self._short.path / "instances" / spec.server_id / "ga",
            pcie_ports=self._config.libvirt.num_pcie_ports,
        )
        self._guests.define(spec.server_id, document)

    def _let_run(self, server_id: str) -> None:
        self._guests.let_run(server_id)
        self._folder.instance(server_id).awaits_start.unlink(missing_ok=True)

    def _shut_down(self, server_id: str, timeout: float, cancel: Cancel) -> bool:
        """Press the power button and wait; True if the guest is off.

        A guest that boots does not hear the button yet, so it is pressed again and again, as Nova does.
        """
        end = time.monotonic() + timeout
        while (left := end - time.monotonic()) > 0 and self._guests.press_power_button(server_id):
            pause = min(_PRESS_AGAIN_SECONDS, left)
            if self._watch.wait(server_id, lambda: self._is_off(server_id), pause, cancel):
                return True
        return bool(self._is_off(server_id))

    def _is_off(self, server_id: str) -> bool | None:
        view = self._guests.look(server_id)
        return None if view is not None and (view.is_active or view.passing) else True

    def _runs(self, server_id: str) -> bool | None:
        """True when it runs, None while it may yet. BuildFailed when it will not."""
        view = self._guests.look(server_id)
        if view is None:
            raise BuildFailed(f"guest {server_id} is gone")
        if view.power_state is PowerState.RUNNING and not view.passing:
            return True
        if not view.is_active:
            raise BuildFailed(f"guest {server_id} stopped ({view.power_state.name}) instead of running")
        return None

    def _has_not(self, server_id: str, tap: str) -> bool | None:
        return True if tap not in self.interfaces(server_id) else None

    def _device(self, domain: str) -> None:
        server_id = server_of(domain)
        if server_id is not None:
            self._watch.wake(server_id)

    def _lifecycle(self, domain: str) -> None:
        server_id = server_of(domain)
        if server_id is not None:
            self._watch.changed(server_id)

    def _tell(self, server_id: str) -> None:
        """After an event: tell the agent what is so now."""
        view = self._guests.look(server_id)
        if view is None or view.passing or view.guest.awaits_start:
            return
        self._report(GuestEvent(server_id=server_id, power_state=view.power_state))

    def _came_back(self) -> None:
        """libvirt answers again: whatever happened meanwhile is told now."""
        self._watch.wake_all()
        found = self._settle()
        for guest in found:
            self._watch.changed(guest.server_id)
        self._look_when_found(found)

    def _look_when_found(self, guests: list[Guest]) -> None:
        """Of a guest that dies before libvirt has found it again there is no event."""
        active = [guest.server_id for guest in guests if guest.power_state in _ACTIVE]

        def look() -> None:
            for server_id in active:
                with suppress(KilonovaError):
                    self._guests.until_found(server_id)
                self._watch.changed(server_id)

        if active:
            threading.Thread(target=look, name="guests-found", daemon=True).start()

    def _settle(self) -> list[Guest]:
        """The guests after a (re)connection; a guest that runs awaits its start no more, though a crash
        kept us from writing that down."""
        try:
            found = self.guests()
        except KilonovaError as error:
            _log.warning("guests_unread", reason=error.message)
            return []
        for guest in found:
            if guest.power_state is PowerState.RUNNING:
                self._folder.instance(guest.server_id).awaits_start.unlink(missing_ok=True)
            self._stillness.thaw_left(guest.server_id)
        return found

    def _console_logs(self) -> list[Path]:
        return [self._folder.instance(server_id).console for server_id in self._folder.server_ids()]


def _cache_mode(config: Config, folder: Folder) -> str:
    """The configured mode, unless the file system cannot do it."""
    wanted = config.libvirt.disk_cachemode
    if wanted not in _CACHE_MODES:
        raise BadRequest(f"libvirt.disk_cachemode is {wanted!r}, not one of {', '.join(_CACHE_MODES)}")
    if wanted in ("none", "directsync") and not host.supports_direct_io(folder.instances):
        _log.info("no_direct_io", folder=str(folder.root), wanted=wanted, used="writeback")
        return "writeback"
    return wanted


def _virt_type(config: Config) -> str:
    """What is configured; ``qemu`` until a guest has shown what ``auto`` means."""
    chosen = config.libvirt.virt_type
    if chosen not in _VIRT_TYPES:
        raise BadRequest(f"libvirt.virt_type is {chosen!r}, not one of {', '.join(_VIRT_TYPES)}")
    return "qemu" if chosen == "auto" else chosen
