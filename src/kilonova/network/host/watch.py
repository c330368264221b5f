"""Has anything changed since the last look? Answered by the kernel's own notices, for nearly nothing, and
told to who wants to look.

A Changes object listens in the network namespace it is made in. It says "yes" too often rather than too
seldom: our own changes count, and lost notices (a full buffer) count.
"""

from __future__ import annotations

import heapq
import itertools
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from kilonova import log

_log = log.get("network.watch")

_NETLINK_ROUTE, _NETLINK_NETFILTER = 0, 12
_LINKS, _IPV4_ADDRESSES, _IPV4_ROUTES, _IPV6_ADDRESSES = 0x1, 0x10, 0x40, 0x100  # RTMGRP_*
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_NFTABLES, _FORWARDING = 7, 24  # NFNLGRP_NFTABLES, RTNLGRP_IPV4_NETCONF


class Changes:
    """Links, addresses, IPv4 routes, forwarding, and firewall rules of one namespace. ``tell()`` is called in
    the loop's thread when the first of them changes, and not again before any() was asked."""

    def __init__(self, loop: Loop, tell: Callable[[], None]) -> None:
        self._loop = loop
        self._tell = tell
        self._first = True
        self._told: set[int] = set()
        """Sockets that the loop does not look at any more."""
        self._route = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_ROUTE)
        self._route.bind((0, _LINKS | _IPV4_ADDRESSES | _IPV4_ROUTES | _IPV6_ADDRESSES))
        self._rules = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
        self._rules.bind((0, 0))
        self._rules.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _NFTABLES)
        self._route.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _FORWARDING)
        for one in (self._route, self._rules):
            one.setblocking(False)
            self._listen(one.fileno())

    def any(self) -> bool:
        """Whether something changed since the last call; true at the first."""
        drained = [self._drain(self._route), self._drain(self._rules), self._first]
        self._first = False
        while self._told:
            self._listen(self._told.pop())
        return any(drained)

    def forget(self) -> None:
        """The next any() is true."""
        self._first = True

    def _listen(self, fileno: int) -> None:
        def changed() -> None:
            self._told.add(fileno)
            self._tell()

        self._loop.add(fileno, changed, once=True)

    @staticmethod
    def _drain(source: socket.socket) -> bool:
        seen = False
        while True:
            try:
                source.recv(65536)
                seen = True
            except BlockingIOError:
                return seen
            except OSError:  # ENOBUFS: notices were lost
                seen = True

    def close(self) -> None:
        for one in (self._route, self._rules):
            self._loop.discard(one.fileno())
            one.close()


class Loop:
    """One thread that waits for many files and calls back when one is readable (or writable), or when it is
    time. Callbacks must be short."""

    def __init__(self, name: str) -> None:
        self._selector = selectors.DefaultSelector()
        self._lock = threading.Lock()
        self._wake, self._woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)[::-1]
        self._selector.register(self._woken, selectors.EVENT_READ, None)
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def add(
        self, fileno: int, callback: Callable[[], None], *, once: bool = False, writable: bool = False
    ) -> None:
        """Call back each time the file is readable, or only the first time; or ``writable``."""
        events = selectors.EVENT_WRITE if writable else selectors.EVENT_READ
        with self._lock:
            self._selector.register(fileno, events, (callback, once))
        self._wake_up()

    def later(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call back once, after so many seconds; after 0, at once, in the loop's thread."""
        with self._lock:
            heapq.heappush(self._due, (time.monotonic() + seconds, next(self._order), callback))
        self._wake_up()

    def discard(self, fileno: int) -> None:
        """No callback for it begins after this. Call it before the file is closed."""
        with self._lock, suppress(KeyError):
            self._selector.unregister(fileno)

    def stop(self) -> None:
        self._ended = True
        self._wake_up()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()
        self._selector.close()
        os.close(self._wake)
        os.close(self._woken)

    def _wake_up(self) -> None:
        with suppress(BlockingIOError):  # full of wake-ups already
            os.write(self._wake, b"!")

    def _run(self) -> None:
        while not self._ended:
            for key, _ in self._selector.select(self._call_due()):
                if key.data is None:
                    with suppress(BlockingIOError):
                        os.read(self._woken, 4096)
                elif self._still_wanted(key):
                    self._call(key.data[0])

    def _call_due(self) -> float | None:
        """Seconds until the next one is due."""
        while True:
            with self._lock:
                wait = self._due[0][0] - time.monotonic() if self._due else None
                if wait is None or wait > 0:
                    return wait
                callback = heapq.heappop(self._due)[2]
            self._call(callback)

    def _still_wanted(self, key: selectors.SelectorKey) -> bool:
        """Not if it was discarded since: its number may be another file's by now."""
        with self._lock:
            current = self._selector.get_map().get(key.fd)
            if current is None or current.data is not key.data:
                return False
            if key.data[1]:
                self._selector.unregister(key.fd)
            return True

    @staticmethod
    def _call(callback: Callable[[], None]) -> None:
        try:
            callback()
        except Exception:  # noqa: BLE001 - the loop serves every network; one callback must not end it
            _log.exception("callback failed")
