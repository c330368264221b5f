"""What is on a server's system disk at one moment: held in its store, or as a file beside it.

Of a guest that is on QEMU writes it itself while the guest goes on (a backup job, which leaves the disk as it
is, so that a crash anywhere costs no more than the file); where the disk's store can hold a moment, it does,
and a file is made of that only if somebody needs one. A guest agent that answers holds the file systems still
for that moment, or in which the job begins. Of a guest that is off its disk is read.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO
from xml.etree import ElementTree as ET

from kilonova.cancel import Cancel
from kilonova.domain.errors import BuildFailed, NotFound
from kilonova.virt.libvirt.disk.base import Backend, Name, Source
from kilonova.virt.libvirt.folder import Folder
from kilonova.virt.libvirt.guests import Guests
from kilonova.virt.libvirt.still import Stillness
from kilonova.virt.libvirt.watch import Watch
from kilonova.virt.libvirt.xml import disk as disk_xml
from kilonova.virt.libvirt.xml.build import element, to_text

_LONGEST = 4 * 3600.0
_ENDS_WITHIN = 60.0
"""Seconds that QEMU has to give up a job."""


class Snapshots:
    def __init__(
        self, folder: Folder, disks: Backend, guests: Guests, watch: Watch, stillness: Stillness
    ) -> None:
        self._folder = folder
        self._disks = disks
        self._guests = guests
        self._watch = watch
        self._stillness = stillness

    def take(self, server_id: str, cancel: Cancel, in_order: bool = False) -> None:
        """``in_order``: BuildFailed if the guest is on and its file systems cannot be held still."""
        self._guests.get(server_id)
        source = self._disks.find(server_id, Name.SYSTEM)
        if source is None:
            raise BuildFailed("the server has no system disk")
        self.drop(server_id)
        target = self._folder.instance(server_id).snapshot
        view = self._guests.look(server_id)
        if view is None or not view.is_active:
            if not self._disks.hold(server_id):
                self._disks.flatten(source, target, cancel)
            return
        part = _part(target)
        with self._stillness.still(server_id, in_order):
            held = self._disks.hold(server_id)
            if not held:
                self._begin(server_id, source, part)
        if not held:
            self._await(server_id, cancel)
            os.rename(part, target)

    def open(self, server_id: str, cancel: Cancel) -> BinaryIO:
        """What was taken, as a qcow2. NotFound if nothing was."""
        target = self._folder.instance(server_id).snapshot
        held = self._disks.held(server_id)
        if held is not None:
            self._disks.flatten(held, target, cancel)
        try:
            return target.open("rb")
        except FileNotFoundError as error:
            raise NotFound(f"nothing was taken of {server_id}") from error

    def drop(self, server_id: str) -> None:
        target = self._folder.instance(server_id).snapshot
        part = _part(target)
        if part.exists():  # libvirt makes it before the job begins: else that is not ours
            self._give_up(server_id)
        self._stillness.thaw_left(server_id)
        self._disks.let_go(server_id)
        for path in (target, part):
            path.unlink(missing_ok=True)

    def _begin(self, server_id: str, source: Source, target: Path) -> None:
        name = disk_xml.name_of(self._guests.document(server_id) or "", source)
        if name is None:
            raise BuildFailed("the guest has no system disk")
        self._guests.begin_backup(server_id, to_text(_job(name, target)))

    def _await(self, server_id: str, cancel: Cancel) -> None:
        try:
            done = self._watch.wait(server_id, lambda: self._guests.job_done(server_id), _LONGEST, cancel)
        except BaseException:
            self.drop(server_id)
            raise
        if not done:
            self.drop(server_id)
            raise BuildFailed(f"the snapshot took longer than {_LONGEST:g} s")

    def _give_up(self, server_id: str) -> None:
        """No job writes any more."""
        try:
            if self._guests.end_job(server_id):
                self._watch.wait(server_id, lambda: self._guests.idle(server_id), _ENDS_WITHIN)
        except NotFound:
            return


def _part(target: Path) -> Path:
    """What is being written."""
    return target.with_name(target.name + ".part")


def _job(name: str, target: Path) -> ET.Element:
    one = element(
        "disk",
        element("driver", type="qcow2"),
        element("target", file=str(target)),
        name=name,
        type="file",
        backup="yes",
    )
    return element("domainbackup", element("disks", one), mode="push")
