"""Fixtures that more than one kind of test needs."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.rabbit import Rabbit, installed


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Who is not root runs all the tests but those that change the machine."""
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("system"):
            item.add_marker(pytest.mark.skip(reason="needs root"))


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


@pytest.fixture(scope="session")
def rabbit() -> Iterator[Rabbit]:
    """A RabbitMQ that runs. Who stops it starts it again."""
    if not installed():
        pytest.skip("needs RabbitMQ: tools/install-packages test")
    folder = Path(tempfile.mkdtemp(prefix="kilonova-rabbit-"))
    broker = Rabbit(folder)
    try:
        yield broker.start()
    finally:
        broker.stop()
        shutil.rmtree(folder)
