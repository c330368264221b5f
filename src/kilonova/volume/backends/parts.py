"""A file that is being made: beside its name, with one maker at a time, and under its name when it is whole.

The maker holds a lock on it, which the kernel takes away when the maker dies. So what is beside and is not
locked is what a kill left, and the next maker of the same begins anew.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from kilonova.domain.errors import Unavailable, VolumeFailed

SUFFIX = ".part"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def storage_errors() -> Iterator[None]:
    """VolumeFailed: the disk is full. Unavailable: it fails."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else "unknown error"
        if error.errno in _FULL:
            raise VolumeFailed(f"no space left for the volume: {reason}") from error
        raise Unavailable(f"the storage of volumes does not work: {reason}") from error


def part_of(path: Path) -> Path:
    """What ``path`` is while it is being made."""
    return path.with_name(path.name + SUFFIX)


@contextmanager
def being_made(path: Path) -> Iterator[BinaryIO]:
    """An empty file, only its owner's, to be filled; nothing of it is left unless it was put(). Unavailable:
    somebody else is making the same."""
    part = part_of(path)
    with storage_errors():
        file = _new(part)
    with file:
        try:
            with storage_errors():
                yield file
        finally:
            if _is(file, part):  # and nobody else's: it is ours as long as we have the lock
                part.unlink(missing_ok=True)


def put(file: BinaryIO, path: Path) -> None:
    """What is being made is whole: it has its name, on the disk too, whatever had it before."""
    os.fsync(file.fileno())
    part_of(path).rename(path)
    sync_folder(path.parent)


def remove_left(part: Path) -> None:
    """What a kill left. Unavailable: its maker lives."""
    file = _locked(part)
    if file is not None:
        with file:
            part.unlink(missing_ok=True)


def sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _new(part: Path) -> BinaryIO:
    """A file that nobody had before: what a dead maker's tools still write is not in it."""
    while True:
        with suppress(FileExistsError):
            file = _locked(part, os.O_CREAT | os.O_EXCL)
            if file is not None:
                return file
        remove_left(part)


def _locked(part: Path, make: int = 0) -> BinaryIO | None:
    """The file of that name, and its lock. None: there is none, or one that was just made is gone."""
    while True:
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | make
        try:
            file = open(os.open(part, flags, 0o600), "r+b", buffering=0)  # noqa: SIM115 - given to the caller
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is(file, part):
                return file
        except BlockingIOError as error:
            file.close()
            raise Unavailable(f"{part.stem} is being made by somebody else") from error
        except BaseException:
            file.close()
            raise
        file.close()  # it got its name, or was removed, before we had the lock


def _is(file: BinaryIO, path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False
