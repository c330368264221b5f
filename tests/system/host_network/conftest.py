"""Fixtures of the host network's tests: a started host, whose every test must leave nothing behind."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from pyroute2 import netns
from tests.system.host_network.lab import (
    INTERNET,
    INTERNET_HOST_SIDE,
    Lab,
    Namespace,
    Service,
    run,
    snapshot,
)

from kilonova.config import Config


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that dnsmasq may enter after it gave up root (pytest's own are closed)."""
    path = Path(tempfile.mkdtemp(prefix="kilonova-test-"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def own_host() -> Iterator[None]:
    """This test's host is a network namespace of its own; nothing may be left in it."""
    if os.geteuid() != 0:
        pytest.skip("makes network namespaces")
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    space = Namespace(f"test-host-{uuid4().hex[:8]}")
    netns.setns(space.name, flags=0)
    try:
        run("ip", "link", "set", "lo", "up")
        before = snapshot()
        yield
        assert snapshot() == before
    finally:
        netns.setns(home)
        os.close(home)
        space.close()


@pytest.fixture
def make_lab(open_folder: Path, own_host: None) -> Iterator[Callable[..., Lab]]:
    labs: list[Lab] = []

    def make(config: Config | None = None) -> Lab:
        labs.append(Lab(open_folder, config))
        return labs[-1]

    yield make
    for lab in labs:
        lab.close()


@pytest.fixture
def lab(make_lab: Callable[..., Lab]) -> Lab:
    return make_lab()


@pytest.fixture
def internet(own_host: None) -> Iterator[Service]:
    """Another machine beyond the host, which knows the host's address and no guest's."""
    space = Namespace(f"test-internet-{uuid4().hex[:8]}")
    run("ip", "link", "add", "testinternet", "type", "veth", "peer", "eth0", "netns", space.name)
    run("ip", "addr", "add", f"{INTERNET_HOST_SIDE}/24", "dev", "testinternet")
    run("ip", "link", "set", "testinternet", "up")
    space.run("ip", "addr", "add", f"{INTERNET}/24", "dev", "eth0")
    space.run("ip", "link", "set", "eth0", "up")
    service = Service(space.inside, INTERNET)
    service.space = space  # type: ignore[attr-defined]
    yield service
    service.close()
    run("ip", "link", "del", "testinternet")
    space.close()
