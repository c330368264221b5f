"""The initramfs: busybox, our init, the drivers of disks; a cpio archive in the "newc" format."""

from __future__ import annotations

import stat
from pathlib import Path

from guest.commands import EPOCH
from guest.modules import INITRAMFS_FIRST, INITRAMFS_SECOND, Modules


def build(busybox: Path, modules: Modules, init: Path) -> bytes:
    files: dict[str, tuple[int, bytes]] = {}
    for folder in ("bin", "dev", "modules", "proc", "root", "sys"):
        files[folder] = (stat.S_IFDIR | 0o755, b"")
    files["init"] = (stat.S_IFREG | 0o755, init.read_bytes())
    files["bin/busybox"] = (stat.S_IFREG | 0o755, busybox.read_bytes())
    for listing, wanted in (("first", INITRAMFS_FIRST), ("second", INITRAMFS_SECOND)):
        names = modules.with_dependencies(wanted)
        text = "".join(f"{name}.ko\n" for name in names)
        files[f"modules/{listing}"] = (stat.S_IFREG | 0o644, text.encode())
        for name in names:
            files[f"modules/{name}.ko"] = (stat.S_IFREG | 0o644, modules.data(name))
    return cpio(files)


def cpio(files: dict[str, tuple[int, bytes]]) -> bytes:
    """Name → (mode, content), all owned by root; folders before what is in them."""
    entries = [_entry(number, name, *files[name]) for number, name in enumerate(sorted(files), start=1)]
    return b"".join([*entries, _entry(0, "TRAILER!!!", 0, b"")])


def _entry(inode: int, name: str, mode: int, content: bytes) -> bytes:
    path = name.encode() + b"\0"
    links = 1
    # inode mode uid gid links mtime size device(2) special-device(2) name-length checksum
    fields = (inode, mode, 0, 0, links, EPOCH, len(content), 0, 0, 0, 0, len(path), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    return _padded(header + path) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
