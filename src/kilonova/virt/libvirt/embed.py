"""``qemu:///embed``: libvirt's QEMU driver inside our process, with its root in our folder."""

from __future__ import annotations

import os
import pwd
from contextlib import suppress
from pathlib import Path

from kilonova import log
from kilonova.virt.libvirt import passage
from kilonova.virt.libvirt.folder import Folder

QEMU_USER = "libvirt-qemu"
"""Whom Debian's and Ubuntu's libvirt runs QEMU as, if it is root itself."""
_log = log.get("virt.libvirt")


def configure(folder: Folder, top: Path) -> None:
    """Write libvirt's settings for our guests; the rest is libvirt's default.

    Folders from ``folder`` up to ``top`` are opened for QEMU's user to pass through.
    """
    settings = [
        "# Written by Kilonova at each start.",
        'stdio_handler = "file"  # no virtlogd beside us',
        "cgroup_controllers = []  # leave nothing outside the folder",
        "remember_owner = 0  # the files are ours alone",
    ]
    if os.geteuid() == 0 and not _qemu_can_reach(folder, top):
        _log.warning("guests_run_as_root", reason=f"user {QEMU_USER} cannot reach {folder.instances}")
        settings += ['user = "root"', 'group = "root"']
    path = folder.embed / "etc" / "qemu.conf"
    path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    path.write_text("\n".join(settings) + "\n")


def open_way_for_qemu(folder: Folder, top: Path) -> None:
    """The same opening for the QEMU of a daemon, whose settings are not ours: most often it is that user."""
    if os.geteuid() == 0 and not _qemu_can_reach(folder, top):
        _log.warning("qemu_may_not_reach_disks", reason=f"user {QEMU_USER} cannot reach {folder.instances}")


def _qemu_can_reach(folder: Folder, top: Path) -> bool:
    with suppress(KeyError):
        return passage.open_way(folder.root, top, pwd.getpwnam(QEMU_USER).pw_uid)
    return False
