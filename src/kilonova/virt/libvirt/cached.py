"""What is in the cache of images: who it is, when it was used last, what is based on it; and what goes.

Beside a file of the cache, ``.json`` says of which images it is, for people; ``.part`` is the beginning of a
file that is not there yet. A file's time of change is when it was used last.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from kilonova import log, metrics
from kilonova.disk_image import qemu_img
from kilonova.domain.errors import BuildFailed
from kilonova.domain.servers import ImageRef
from kilonova.virt.libvirt.folder import OVERLAYS, Folder, Instance

_FILE = re.compile(r"[0-9a-f]{64,128}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_log = log.get("virt.images")
_removed = metrics.Counter("image_cache_removed", "Images that the host's cache gave up.")


class CachedImage(msgspec.Struct, frozen=True, kw_only=True):
    """A file of the cache. ``used_by``: servers with a disk that is based on it."""

    file: str
    images: list[str]
    size: int
    """Bytes that it takes of the disk."""
    complete: bool
    last_used: float
    used_by: list[str]


def touch(path: Path) -> bool:
    """It is used now; False if it is not there."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


def free_bytes(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def size_bytes(folder: Path) -> int:
    """Of the disk that it is on."""
    found = os.statvfs(folder)
    return found.f_blocks * found.f_frsize


def remember(path: Path, image: ImageRef) -> None:
    """The file is of this image, too. Its turn is the caller's."""
    known = _images_of(path)
    if image.id not in known:
        part = path.with_suffix(".json.part")
        part.write_text(json.dumps({"images": [*known, image.id]}))
        part.rename(path.with_suffix(".json"))


def listed(folder: Folder) -> list[CachedImage]:
    """All that is there, what was used last first."""
    used = users(folder)
    found = []
    for path in folder.base.iterdir():
        name = path.name.removesuffix(".part")
        if not _FILE.fullmatch(name):
            continue
        with suppress(FileNotFoundError):
            seen = path.stat()
            found.append(
                CachedImage(
                    file=name,
                    images=_images_of(path),
                    size=seen.st_blocks * 512,
                    complete=path.name == name,
                    last_used=seen.st_mtime,
                    used_by=sorted(used.get(name, ())) if path.name == name else [],
                )
            )
    return sorted(found, key=lambda one: -one.last_used)


def users(folder: Folder) -> dict[str, set[str]]:
    """File of the cache → servers with a disk that is based on it, as the disks themselves say.

    Asked are those alone that are overlays by their name: what a guest writes may look like one. BuildFailed
    if one cannot be read: then nobody knows.
    """
    found: dict[str, set[str]] = {}
    for server_id in folder.server_ids():
        for base in _bases(folder.instance(server_id)):
            if base.parent == folder.base or _same(base.parent, folder.base):
                found.setdefault(base.name, set()).add(server_id)
    return found


def remove_unused(base: Path, in_use: Callable[[], Set[str]], older_than: float) -> list[str]:
    """Files that nobody used in so many seconds go, and transfers that nobody went on with: their names."""
    end = time.time() - older_than
    old = [path for path in base.iterdir() if _FILE.fullmatch(path.stem) and _is_old(path, end)]
    if not old:
        return []
    used = in_use()
    gone = []
    for path in old:
        if path.suffix == "" and path.name in used:
            touch(path)  # its age begins when the last disk goes
        elif _removed_if_old(path, end):
            gone.append(path.name)
            _removed.add()
            _log.info("image_removed", file=path.name)
    return gone


def _is_old(path: Path, end: float) -> bool:
    try:
        return path.suffix in ("", ".part") and path.stat().st_mtime < end
    except FileNotFoundError:
        return False


def _removed_if_old(path: Path, end: float) -> bool:
    """Unless somebody fetches it now, or asked for it since."""
    with _turn(path.with_suffix(".lock")) as mine:
        if not mine or not _is_old(path, end):
            return False
        path.unlink(missing_ok=True)
        if not path.with_suffix("").exists():
            for left in (".json", ".json.part"):
                path.with_suffix(left).unlink(missing_ok=True)
        return True


@contextmanager
def _turn(lock: Path) -> Iterator[bool]:
    """Whether nobody else has it (turns.py)."""
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _bases(instance: Instance) -> Iterator[Path]:
    with suppress(OSError):
        yield instance.boot_cd.readlink()
    for path in (instance.path / name for name in OVERLAYS):
        if not path.exists():
            continue
        try:
            name = qemu_img.backing_file(path)
        except BuildFailed:
            if path.exists():
                raise
            continue  # it went in between
        if name is not None:
            yield path.parent / name


def _same(one: Path, other: Path) -> bool:
    """The folder may be reached by another way, as hosts do that share it."""
    try:
        return one.samefile(other)
    except OSError:
        return False


def _images_of(path: Path) -> list[str]:
    try:
        return [str(one) for one in json.loads(path.with_suffix(".json").read_text())["images"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []
