"""The connections of ports that leave are ended, with one read of what is tracked for all that leave at once.

A read may go through a quarter of a million entries (tracked.py), and a host that is emptied has many ports
leave at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Collection

import msgspec

from kilonova.domain.errors import KilonovaError
from kilonova.network.host import tracked


class _Left(msgspec.Struct, eq=False):
    zones: set[int]
    addresses: set[str]
    ended: bool = False
    error: KilonovaError | None = None


class Leaving:
    """Thread-safe. Who comes while another reads waits, and the next read is for all who wait."""

    def __init__(self) -> None:
        self._waiting: list[_Left] = []
        self._lock = threading.Lock()
        self._reading = threading.Lock()

    def end(self, zones: Collection[int], addresses: Collection[str]) -> None:
        """No connection of these zones with one of these addresses at an end is left of those that were there
        at the call. BuildFailed: they cannot be read."""
        if not zones or not addresses:
            return
        one = _Left(set(zones), set(addresses))
        with self._lock:
            self._waiting.append(one)
        with self._reading:
            if not one.ended:
                with self._lock:
                    together, self._waiting = self._waiting, []
                _end(together)
        if one.error:
            raise one.error


def _end(together: list[_Left]) -> None:
    zones = {zone for one in together for zone in one.zones}
    addresses = {address for one in together for address in one.addresses}
    error = None
    try:
        read = tracked.connections(zones, addresses)
        tracked.end([found for found in read if any(_is_of(found, one) for one in together)])
    except KilonovaError as failed:
        error = failed
    for one in together:
        one.ended, one.error = True, error


def _is_of(found: tracked.Connection, one: _Left) -> bool:
    ends = {found.packet.source, found.packet.destination}
    return found.zone in one.zones and not ends.isdisjoint(one.addresses)
