"""Room, the state folder, the port."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
from pathlib import Path

from kilonova import passage
from kilonova.cli.doctor.check import Check, NotAsked, Where
from kilonova.virt.libvirt.embed import EXAMPLE, QEMU_USER
from kilonova.virt.libvirt.needs import Lacking


def _memory(_: Where) -> str:
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    mib = int(fields["MemAvailable"].split()[0]) // 1024
    if mib < 1024:
        raise Lacking(f"{mib} MiB")
    return f"{mib} MiB"


def _disk(where: Where) -> str:
    free = shutil.disk_usage(_existing(where.state or Path.cwd())).free / 2**30
    if free < 5:
        raise Lacking(f"{free:.1f} GiB")
    return f"{free:.0f} GiB"


def _state(where: Where) -> str:
    if where.state is None:
        raise NotAsked
    folder = _existing(where.state)
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise Lacking(f"{folder} cannot be written")
    return "there" if where.state.is_dir() else f"will be made in {folder}"


def _way(where: Where) -> str:
    """The state folder itself is opened at the start; those above it are not ours to open."""
    if where.state is None:
        raise NotAsked
    try:
        uid = pwd.getpwnam(QEMU_USER).pw_uid
    except KeyError:
        raise NotAsked from None  # which is a finding of its own
    closed = passage.obstacle(_existing(where.state.absolute().parent), uid)
    if closed is not None:
        raise Lacking(f"{closed} is closed for it")
    return "yes"


def _existing(path: Path) -> Path:
    """The path, or the nearest of its parents that exists."""
    return next(place for place in [path.absolute(), *path.absolute().parents] if place.exists())


def _port(where: Where) -> str:
    if where.port is None:
        raise NotAsked
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", where.port))
        except OSError as error:
            raise Lacking(f"{where.port}: {error.strerror}") from error
    return f"{where.port} is free"


CHECKS = (
    Check("memory", _memory, "less than 1 GiB is free: hardly a guest fits", "", needed=False),
    Check("disk", _disk, "less than 5 GiB is free: hardly an image fits", "", needed=False),
    Check("state folder", _state, "Kilonova keeps everything there", ""),
    Check(
        f"QEMU's user ({QEMU_USER}) reaches the state folder",
        _way,
        f"guests would run as root: better give a --state that all may reach, {EXAMPLE}",
        "",
        needed=False,
    ),
    Check("port", _port, "another program serves there: choose another with --port", ""),
)
