"""Fixtures that more than one kind of test needs."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def embed_folder() -> Iterator[Path]:
    """The one folder of a libvirt driver in this process: ``qemu:///embed`` has one root a process.

    Its path is short (UNIX sockets lie below it) and open to pass (QEMU runs as its own user).
    """
    from kilonova.virt.libvirt.reaper import adopt_guests

    adopt_guests()
    folder = Path(tempfile.mkdtemp(prefix="kilonova-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)
