"""``qemu:///embed``: libvirt's QEMU driver inside our process, with its root in our folder."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable
from pathlib import Path

from kilonova import log, passage
from kilonova.virt.libvirt.folder import Folder

QEMU_USER = "libvirt-qemu"
"""Whom Debian's and Ubuntu's libvirt runs QEMU as, if it is root itself."""
EXAMPLE = "like /var/lib/kilonova"
_log = log.get("virt.libvirt")


def configure(folder: Folder, top: Path, say: Callable[[str], None]) -> str:
    """Write libvirt's settings for our guests; the rest is libvirt's default. The user whom guests run as.

    Folders from ``folder`` up to ``top`` are opened for QEMU's user to pass through. If others above them are
    closed, guests run as root, and ``say`` hears it.
    """
    settings = [
        "# Written by Kilonova at each start.",
        'stdio_handler = "file"  # no virtlogd beside us',
        "cgroup_controllers = []  # leave nothing outside the folder",
        "remember_owner = 0  # the files are ours alone",
    ]
    reason = _closed_for_qemu(folder, top)
    if reason:
        _log.warning("guests_run_as_root", reason=reason)
        say(f"guests run as root: {reason}; better give a --state that all may reach, {EXAMPLE}")
        settings += ['user = "root"', 'group = "root"']
    path = folder.embed / "etc" / "qemu.conf"
    path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    path.write_text("\n".join(settings) + "\n")
    return "root" if reason else qemu_user()


def qemu_user() -> str:
    """Whom libvirt runs QEMU as by default: a user of its own if it is root, and whoever it is otherwise."""
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid()).pw_name
    return "root" if _uid(QEMU_USER) is None else QEMU_USER


def _uid(user: str) -> int | None:
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        return None


def open_way_for_qemu(folder: Folder, top: Path, say: Callable[[str], None]) -> None:
    """The same opening for the QEMU of a daemon, whose settings are not ours: most often it is that user."""
    reason = _closed_for_qemu(folder, top)
    if reason:
        _log.warning("qemu_may_not_reach_disks", reason=reason)
        say(f"guests may not start: {reason}; better give a --state that all may reach, {EXAMPLE}")


def _closed_for_qemu(folder: Folder, top: Path) -> str | None:
    """Why QEMU's user cannot reach its files; None if it can, or if we are no root and QEMU runs as we do."""
    if os.geteuid() != 0:
        return None
    uid = _uid(QEMU_USER)
    if uid is None:
        return f"there is no user {QEMU_USER}"
    if passage.open_way(folder.root, top, uid):
        return None
    return f"{QEMU_USER} cannot pass {passage.obstacle(folder.root, uid)}"
