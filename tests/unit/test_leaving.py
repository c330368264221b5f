"""Ports that leave at once cost one read of what the kernel tracks (leaving.py)."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tests.running import until

from kilonova.domain.errors import BuildFailed
from kilonova.network.host import tracked
from kilonova.network.host.leaving import Leaving
from kilonova.network.host.tracked import Connection
from kilonova.network.host.verdict import Packet

PORTS = 40


def connection(zone: int, source: str) -> Connection:
    packet = Packet(protocol=6, source=source, destination="192.0.2.1")
    return Connection(zone, packet, "192.0.2.1", source, f"{zone} {source}".encode())


class Kernel:
    """The first read waits until it may go on."""

    def __init__(self) -> None:
        self.entries = [connection(zone, f"10.0.{of}.5") for zone in range(PORTS) for of in (zone, 200)]
        self.reads = 0
        self.go_on = threading.Event()
        self.broken = False

    def connections(self, zones: Collection[int], addresses: Collection[str]) -> Iterator[Connection]:
        self.reads += 1
        assert self.go_on.wait(30)
        if self.broken:
            raise BuildFailed("no")
        yield from [one for one in self.entries if one.zone in zones and one.packet.source in addresses]

    def end(self, some: Collection[Connection]) -> int:
        self.entries = [one for one in self.entries if one not in some]
        return len(some)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel()
    monkeypatch.setattr(tracked, "connections", made.connections)
    monkeypatch.setattr(tracked, "end", made.end)
    return made


def all_leave(kernel: Kernel) -> list[Any]:
    """Each port with its own zone and address; the address of its neighbour means nothing there."""
    leaving = Leaving()
    with ThreadPoolExecutor(PORTS) as pool:
        begun = [pool.submit(leaving.end, {0}, {"10.0.0.5"})]
        until(lambda: kernel.reads == 1, 60, "the first read")
        begun += [pool.submit(leaving.end, {n}, {f"10.0.{n}.5"}) for n in range(1, PORTS)]
        until(lambda: len(leaving._waiting) == PORTS - 1, 60, "the others to wait")
        kernel.go_on.set()
        return [one.exception(30) for one in begun]


def test_those_that_leave_at_once_cost_one_read(kernel: Kernel) -> None:
    assert all_leave(kernel) == [None] * PORTS
    assert kernel.reads == 2
    assert {one.packet.source for one in kernel.entries} == {"10.0.200.5"}, "others' are left"


def test_each_hears_that_it_failed(kernel: Kernel) -> None:
    kernel.broken = True
    assert all(isinstance(error, BuildFailed) for error in all_leave(kernel))
