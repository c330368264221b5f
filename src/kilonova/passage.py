"""The way through the private state folder, for the users that QEMU and dnsmasq run as.

They must pass through it to their files, and only that: such a user gets search permission by an access
control list (acl(5)) on the folders that are ours, and nobody else gets anything.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

_ATTRIBUTE = "system.posix_acl_access"
_VERSION = struct.pack("<I", 2)
_ENTRY = struct.Struct("<HHI")  # tag, permissions, id
_USER_OBJ, _USER, _GROUP_OBJ, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x10, 0x20
_NO_ID = 0xFFFFFFFF
_SEARCH = 1

_Acl = dict[tuple[int, int], int]


def open_way(folder: Path, top: Path, uid: int) -> bool:
    """User ``uid`` can reach what is in ``folder``; False if that cannot be had.

    Only ``folder`` and the folders above it up to ``top`` are changed.
    """
    folder, top = folder.resolve(), top.resolve()
    ours = {path for path in (folder, *folder.parents) if path == top or top in path.parents} | {folder}
    return all(
        can_pass(path, uid) or (path in ours and _grant(path, uid)) for path in (folder, *folder.parents)
    )


def obstacle(folder: Path, uid: int) -> Path | None:
    """The topmost folder on the way into ``folder`` that user ``uid`` cannot pass; None if there is none."""
    folder = folder.resolve()
    way = [*reversed(folder.parents), folder]
    return next((path for path in way if not can_pass(path, uid)), None)


def can_pass(path: Path, uid: int) -> bool:
    """The folder is open to all who pass, or to this user by name."""
    stat = path.stat()
    return (
        bool(stat.st_mode & _SEARCH) or stat.st_uid == uid or bool(_read(path).get((_USER, uid), 0) & _SEARCH)
    )


def _grant(path: Path, uid: int) -> bool:
    acl = _read(path)
    acl[_USER, uid] = acl.get((_USER, uid), 0) | _SEARCH
    # The mask bounds what all named users and groups get.
    acl[_MASK, _NO_ID] = acl.get((_MASK, _NO_ID), acl[_GROUP_OBJ, _NO_ID]) | _SEARCH
    try:
        os.setxattr(path, _ATTRIBUTE, _encode(acl))
    except OSError:
        return False
    return True


def _read(path: Path) -> _Acl:
    """The list, or the one that the folder's mode stands for."""
    try:
        data = os.getxattr(path, _ATTRIBUTE)
    except OSError:
        mode = path.stat().st_mode
        return {
            (_USER_OBJ, _NO_ID): mode >> 6 & 7,
            (_GROUP_OBJ, _NO_ID): mode >> 3 & 7,
            (_OTHER, _NO_ID): mode & 7,
        }
    return {(tag, who): perms for tag, perms, who in _ENTRY.iter_unpack(data[len(_VERSION) :])}


def _encode(acl: _Acl) -> bytes:
    """The kernel wants the entries in the order of their tags, and of their ids."""
    return _VERSION + b"".join(_ENTRY.pack(tag, acl[tag, who], who) for tag, who in sorted(acl))
