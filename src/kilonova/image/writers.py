"""Who writes which image, and whether it still does: so that "the upload was cut off" is known, not guessed.

Several processes, on several machines, serve the images of one database. Each has a file of its own in a
folder that the processes of its machine share, locked for as long as it lives; each upload has a token that
names its process, and stands in the image's record.
"""

from __future__ import annotations

import fcntl
import re
import threading
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

_NAME = re.compile(r"[0-9a-f]{32}")


class Writers:
    """This process among them. ``folder`` None: it knows of no other. Safe in many threads."""

    def __init__(self, folder: Path | None = None) -> None:
        self._name = uuid.uuid4().hex
        self._folder = folder
        self._lock = threading.Lock()
        self._active: set[str] = set()
        self._file = None if folder is None else self._make(folder)

    def _make(self, folder: Path) -> BinaryIO:
        """It is locked before it has its name: under that nobody finds it free while this process lives."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        new = folder / f"{self._name}.new"
        file = new.open("wb")
        fcntl.flock(file, fcntl.LOCK_EX)
        new.rename(folder / self._name)
        return file

    def close(self) -> None:
        """Nothing of it is left, unless an upload was cut off: who starts next ends that."""
        if self._file is None or self._folder is None:
            return
        with self._lock:
            if not self._active:
                (self._folder / self._name).unlink(missing_ok=True)
        self._file.close()

    @contextmanager
    def writes(self) -> Iterator[str]:
        """A token for one upload, or for the end of one that was cut off."""
        token = f"{self._name}/{uuid.uuid4().hex[:16]}"
        with self._lock:
            self._active.add(token)
        try:
            yield token
        finally:
            with self._lock:
                self._active.discard(token)

    def is_over(self, token: str) -> bool | None:
        """Whether nobody writes under this token any more; None: it is of another machine, and not known
        here."""
        name = token.partition("/")[0]
        if name == self._name:
            with self._lock:
                return token not in self._active
        if self._folder is None or not _NAME.fullmatch(name):
            return None
        return _is_free(self._folder / name)

    def forget(self, needed: Collection[str]) -> None:
        """The files of processes that are no more, and of whose uploads none is among these tokens."""
        if self._folder is None:
            return
        names = {token.partition("/")[0] for token in needed} | {self._name}
        for path in self._folder.iterdir():
            if path.name not in names and _NAME.fullmatch(path.name) and _is_free(path):
                path.unlink(missing_ok=True)


def _is_free(path: Path) -> bool | None:
    """Whether who locked the file is no more; None: there is none."""
    with suppress(FileNotFoundError), path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
    return None
