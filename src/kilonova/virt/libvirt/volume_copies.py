"""A copy of a volume that a guest writes to, as it is at one moment.

QEMU mirrors it: what was there, and what the guest writes meanwhile. When both are the same the mirror ends,
and what it ends with is of that moment; a guest agent that answers holds the file systems still for it. The
guest goes on with its own volume. That a copy is under way, and where to, only QEMU remembers.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

from kilonova.domain.block_devices import AttachedVolume
from kilonova.domain.errors import BuildFailed, NotFound, Unavailable
from kilonova.domain.volumes import CopyState
from kilonova.virt.libvirt.guests import Guests
from kilonova.virt.libvirt.volumes import GuestVolumes
from kilonova.virt.libvirt.watch import Watch
from kilonova.virt.libvirt.xml import volume as xml
from kilonova.virt.libvirt.xml.build import to_text


class VolumeCopies:
    """``still``: in its block a guest's file systems are in order, or, if they must be, BuildFailed."""

    def __init__(
        self,
        guests: Guests,
        watch: Watch,
        volumes: GuestVolumes,
        still: Callable[[str, bool], AbstractContextManager[None]],
    ) -> None:
        self._guests = guests
        self._watch = watch
        self._volumes = volumes
        self._still = still

    def copy(
        self,
        server_id: str,
        volume_id: str,
        to: AttachedVolume,
        begin: bool,
        patience: float,
        in_order: bool,
    ) -> CopyState:
        disk = xml.find(self._guests.document(server_id) or "<domain/>", volume_id)
        if disk is None or self._is_off(server_id):
            return CopyState.OFF
        name, target = xml.name_of(disk), xml.mirror_of(disk)
        if target and to.volume_id not in target:
            raise Unavailable(f"guest {server_id} is copying volume {volume_id} to somewhere else")
        if begin:
            if target:
                self._guests.end_copy(server_id, name, pivot=False)
            with self._volumes.lent(server_id, [to]) as (device,):
                self._guests.begin_copy(server_id, name, to_text(xml.target(device)))
        try:
            return self._finished(server_id, name, patience, in_order)
        except (BuildFailed, NotFound):
            if self._is_off(server_id):
                return CopyState.OFF
            raise

    def _finished(self, server_id: str, name: str, patience: float, in_order: bool) -> CopyState:
        copied = partial(self._volumes.is_copied, server_id, name)
        if not self._watch.wait(server_id, copied, patience):
            return CopyState.GOING
        with self._still(server_id, in_order):
            self._guests.end_copy(server_id, name, pivot=False)
        return CopyState.COPIED

    def _is_off(self, server_id: str) -> bool:
        view = self._guests.look(server_id)
        return view is None or not view.is_active

    def drop(self, server_id: str, volume_id: str, to_id: str) -> None:
        disk = xml.find(self._guests.document(server_id) or "<domain/>", volume_id)
        if disk is not None and to_id in xml.mirror_of(disk):
            self._guests.end_copy(server_id, xml.name_of(disk), pivot=False)
