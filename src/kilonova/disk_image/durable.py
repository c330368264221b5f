"""Files that are whole under their name, also after the machine lost its power."""

from __future__ import annotations

import os
from pathlib import Path


def put(part: Path, path: Path) -> None:
    """What was written as ``part`` is ``path`` from now on: its bytes are on the disk before its name is.
    The folder's name is, too: it may be new."""
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.rename(path)
    sync_folder(path.parent)
    sync_folder(path.parent.parent)


def sync_folder(path: Path) -> None:
    """The names in it are on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
