"""The volumes of a host's guests: given to one that is on, or off; taken, swapped, grown."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from xml.etree import ElementTree as ET

from kilonova.cancel import Cancel
from kilonova.config import Libvirt
from kilonova.domain.block_devices import AttachedVolume, free_name
from kilonova.domain.errors import BuildFailed
from kilonova.domain.machine import this_machine
from kilonova.domain.servers import BuildSpec
from kilonova.domain.volumes import HostConnector
from kilonova.virt.libvirt import host, reach
from kilonova.virt.libvirt.guests import Guests
from kilonova.virt.libvirt.secret_store import Store
from kilonova.virt.libvirt.secrets import Secrets
from kilonova.virt.libvirt.watch import Watch
from kilonova.virt.libvirt.xml import volume as xml
from kilonova.virt.libvirt.xml.build import to_text
from kilonova.virt.libvirt.xml.volume import VolumeDevice

_GIB = 1 << 30


class GuestVolumes:
    """``name``: this host's."""

    def __init__(self, secrets: Store, guests: Guests, watch: Watch, config: Libvirt, name: str) -> None:
        self._guests = guests
        self._watch = watch
        self._config = config
        # What an iSCSI qualified name may have.
        self._initiator = f"iqn.2026-01.org.kilonova:{re.sub(r'[^a-z0-9.-]', '-', name.lower())}"
        self._secrets = Secrets(secrets, config, self._initiator)

    def connector(self) -> HostConnector:
        return HostConnector(ip=host.host_ip(), initiator=self._initiator, machine=this_machine())

    @contextmanager
    def lent(self, server_id: str, volumes: Sequence[AttachedVolume]) -> Iterator[list[VolumeDevice]]:
        """With what libvirt must know of them to start the guest, in the block. BuildFailed: this host cannot
        reach one."""
        reach.check(volumes)
        with self._secrets.lent(server_id, volumes) as devices:
            yield devices

    def of(self, server_id: str) -> set[str]:
        document = self._guests.document(server_id)
        return set() if document is None else xml.ids(document)

    def attach(self, spec: BuildSpec, volume: AttachedVolume) -> None:
        server_id = spec.server_id
        self._guests.get(server_id)
        document = self._guests.document(server_id) or "<domain/>"
        if xml.find(document, volume.volume_id) is not None:
            return
        taken = xml.names(document)
        name = volume.device_name
        if name in taken:  # by a CD, which has its name from us alone
            name = free_name(taken, volume.disk_bus)
        view = self._guests.look(server_id)
        if view is not None and view.is_active:
            reach.check([volume])
        with self._secrets.lent(server_id, [volume]) as (device,):
            self._guests.attach(server_id, to_text(xml.device(device, name)), f"volume {volume.volume_id}")

    def detach(self, server_id: str, volume_id: str, patience: float, cancel: Cancel) -> None:
        """A guest that does not answer is asked again, as Nova does: it may have been booting."""
        end = time.monotonic() + patience
        again = min(self._config.device_detach_timeout, patience)
        disk = xml.find(self._guests.document(server_id) or "<domain/>", volume_id)
        if disk is not None:
            self._end_mirror(server_id, disk)
        find = partial(xml.find, volume_id=volume_id)
        while self._guests.ask_to_detach(server_id, find, f"volume {volume_id}"):
            if self._watch.wait(server_id, lambda: self._has_not(server_id, volume_id), again, cancel):
                return
            if time.monotonic() >= end:
                raise BuildFailed(f"guest {server_id} did not let go of its volume in {patience:g} s")

    def mirror(
        self, spec: BuildSpec, volume_id: str, new: AttachedVolume, timeout: float, cancel: Cancel
    ) -> None:
        server_id = spec.server_id
        document = self._guests.document(server_id) or "<domain/>"
        if xml.find(document, new.volume_id) is not None:
            return
        disk = xml.find(document, volume_id)
        if disk is None:
            raise BuildFailed(f"guest {server_id} has no volume {volume_id}")
        name = xml.name_of(disk)
        if xml.swaps_to(disk) != new.volume_id:
            self._end_mirror(server_id, disk)
            with self.lent(server_id, [new]) as (device,):
                self._guests.begin_copy(server_id, name, to_text(xml.target(device)))
        if not self._watch.wait(server_id, partial(self.is_copied, server_id, name), timeout, cancel):
            raise BuildFailed(f"the copy of a volume of guest {server_id} did not end within {timeout:.0f} s")

    def swap(self, server_id: str, volume_id: str, new_id: str) -> None:
        document = self._guests.document(server_id) or "<domain/>"
        if xml.find(document, new_id) is not None:
            return
        disk = xml.find(document, volume_id)
        if disk is None or xml.swaps_to(disk) != new_id:
            raise BuildFailed(f"no volume of guest {server_id} was copied to {new_id}")
        self._guests.end_copy(server_id, xml.name_of(disk), pivot=True)

    def end_mirrors(self, server_id: str) -> None:
        for name in xml.swapping(self._guests.document(server_id) or "<domain/>"):
            self._guests.end_copy(server_id, name, pivot=False)

    def _end_mirror(self, server_id: str, disk: ET.Element) -> None:
        """A copy of the disk to somewhere, if there is one, breaks off: it would keep the disk as it is."""
        if xml.mirror_of(disk):
            self._guests.end_copy(server_id, xml.name_of(disk), pivot=False)

    def resize(self, server_id: str, volume_id: str, size_gb: int) -> None:
        view = self._guests.look(server_id)
        document = self._guests.document(server_id)
        disk = None if document is None else xml.find(document, volume_id)
        if view is not None and view.is_active and disk is not None:
            self._guests.resize(server_id, xml.name_of(disk), size_gb * _GIB)

    def _has_not(self, server_id: str, volume_id: str) -> bool | None:
        return True if volume_id not in self.of(server_id) else None

    def is_copied(self, server_id: str, name: str) -> bool | None:
        """Whether the disk and what it is copied to have the same now. BuildFailed: the copy broke off."""
        disk = xml.named(self._guests.document(server_id) or "<domain/>", name)
        if disk is None or not xml.mirror_of(disk):
            raise BuildFailed(f"the copy of a disk of guest {server_id} broke off")
        return True if xml.is_copied(disk) else None
