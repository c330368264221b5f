"""What the driver needs on this machine: one table, for ``kilonova doctor`` and for a start that fails."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from kilonova.virt.libvirt.embed import QEMU_USER

APT = "apt-get install --no-install-recommends "
_OLDEST_LIBVIRT = 9_000_000


class Lacking(Exception):
    """It is not there, or not as it should be; the message says what was found instead."""


class Need(NamedTuple):
    name: str
    look: Callable[[], str]
    """What was found, in a few words. Raises Lacking."""
    meaning: str
    """What it is for."""
    command: str
    """How to get it (Debian's and Ubuntu's names)."""


def missing() -> list[str]:
    """What is lacking, each with how to get it."""
    lacks = []
    for need in NEEDS:
        try:
            need.look()
        except Lacking as lacking:
            lacks.append(f"{need.name} is missing ({lacking}): {need.command}")
    return lacks


def _program(name: str, option: str = "--version") -> Callable[[], str]:
    """Its version. ``option``: how it is asked."""

    def look() -> str:
        path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
        if path is None:
            raise Lacking(f"no {name}")
        try:
            done = subprocess.run([path, option], capture_output=True, text=True, timeout=20, check=True)
        except (OSError, subprocess.SubprocessError) as error:
            raise Lacking(str(error)) from error
        found = re.search(r"\d+(\.\d+)+", done.stdout + done.stderr)
        return found[0] if found else "installed"

    return look


def _libvirt() -> str:
    from importlib.metadata import version as installed

    try:
        import libvirt
    except ImportError as error:
        raise Lacking(str(error)) from error
    number = libvirt.getVersion()
    version = f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"
    if number < _OLDEST_LIBVIRT:
        raise Lacking(version)
    return f"{version}, libvirt-python {installed('libvirt-python')}"


def _qemu_driver() -> str:
    places = [Path("/usr/lib"), Path("/usr/lib64"), *Path("/usr/lib").glob("*-linux-gnu")]
    for place in places:
        if (place / "libvirt/connection-driver/libvirt_driver_qemu.so").exists():
            return "installed"
    raise Lacking("not installed")


def _user() -> str:
    try:
        return f"user {pwd.getpwnam(QEMU_USER).pw_uid}"
    except KeyError as error:
        raise Lacking(f"no user {QEMU_USER}") from error


NEEDS = (
    Need("QEMU", _program("qemu-system-x86_64"), "it runs the guests", f"{APT}qemu-system-x86"),
    Need("qemu-img", _program("qemu-img"), "it makes the disks", f"{APT}qemu-utils"),
    Need("prlimit", _program("prlimit"), "it bounds what a hostile image costs", f"{APT}util-linux"),
    Need("mkfs.ext4", _program("mkfs.ext4", "-V"), "it formats ephemeral disks", f"{APT}e2fsprogs"),
    Need("mkswap", _program("mkswap"), "it formats swap disks", f"{APT}util-linux"),
    Need(
        "libvirt",
        _libvirt,
        "9.0 or later, with Python's binding, manages the guests",
        "apt-get install gcc libc6-dev libvirt-dev pkg-config python3-dev; pip install 'kilonova[libvirt]'",
    ),
    Need(
        "libvirt's QEMU driver",
        _qemu_driver,
        "libvirt cannot use QEMU without it",
        f"{APT}libvirt-daemon-driver-qemu",
    ),
    Need(
        "libvirt's user",
        _user,
        "libvirt's QEMU driver does not start without it",
        f"groupadd --system --force kvm; groupadd --system --force {QEMU_USER}; useradd --system --gid kvm"
        f" --groups {QEMU_USER} --no-create-home --shell /usr/sbin/nologin {QEMU_USER}",
    ),
)
