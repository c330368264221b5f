"""Watches a cloud in this process: what each thread does for operations, and which fault points it reaches.

An effect is what another process can see: a transaction, a message, an answer, an act on a host. Between two
of them in one thread the process may die, so there must be a fault point.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from tests.functional.builds.cloud import Cloud, Points, Post
from tests.volume_store import MemoryBackend

from kilonova.bus.base import Dispatcher
from kilonova.conductor import sweeper
from kilonova.image.neighbour import Neighbour
from kilonova.network.host import MemoryHost
from kilonova.store.postgresql import PostgreSQL
from kilonova.store.sqlite import SQLite
from kilonova.virt.fake import FakeDriver
from kilonova.volume_manager.uploads import ImageUploads

_MOVES_OPERATIONS = {
    *("build_instances", "perform_action", "delete_instance", "build_and_run_instance"),
    *("change_interfaces", "refresh_interfaces", "select_destinations"),
    *("progress", "allocate_networks", "activate", "finished"),
    *("prepare_block_devices", "connect_volume", "server_volumes", "change_volumes", "perform", "connect"),
    *("copy_volume", "drop_copy", "reimage_root"),
}
"""All other messages only tell what is."""

_ACTS = (
    *("ensure_base_image", "ensure_disks", "ensure_config_drive", "ensure_paused", "resume_build", "destroy"),
    *("power_on", "power_off", "reboot", "pause", "unpause", "suspend", "resume"),
    *("attach_interface", "detach_interface", "set_link"),
    *("take_snapshot", "drop_snapshot", "rescue", "unrescue", "cache_image"),
    *("attach_volume", "detach_volume", "resize_volume"),
    *("mirror_volume", "swap_volume", "end_mirrors", "copy_volume", "drop_copy"),
)
_ACTS_OF_STORE = (
    *("ensure_volume", "delete", "extend", "revert", "connect", "disconnect"),
    *("ensure_snapshot", "delete_snapshot"),
)
_CHANGES = ("/compute", "/volume")
"""The APIs whose requests begin operations."""


class Watch:
    def __init__(self, forgotten: str = "") -> None:
        self.points: set[str] = set()
        self.unnamed: set[tuple[str, str, str]] = set()
        """(message, effect, effect): two in one thread without a point between them."""
        self._forgotten = forgotten
        self._local = threading.local()

    @property
    def _under_way(self) -> list[list[str]]:
        """The messages that this thread works on, the innermost last: [its method, its last effect]."""
        if not hasattr(self._local, "under_way"):
            self._local.under_way = []
        found: list[list[str]] = self._local.under_way
        return found

    def reached(self, point: str) -> None:
        if point == self._forgotten:
            return
        self.points.add(point)
        if self._under_way:
            self._under_way[-1][1] = ""

    def effect(self, what: str) -> None:
        if not self._under_way or not self._under_way[-1][0]:
            return
        method, before = self._under_way[-1]
        # One step may act several times: it looks before it acts, whenever it begins again.
        step = method != "refresh_interfaces" and before.startswith("host") and what.startswith("host")
        if before and not step:
            self.unnamed.add((method, before, what))
        self._under_way[-1][1] = what

    @contextmanager
    def message(self, method: str, answered: bool = False) -> Iterator[None]:
        moves = method in _MOVES_OPERATIONS or " " in method
        self._under_way.append([method if moves else "", ""])
        try:
            yield
            if answered:
                self.effect("answer")
        finally:
            self._under_way.pop()


def watch(patch: pytest.MonkeyPatch, forgotten: str = "") -> Watch:
    """Every cloud that is made from now on, as if it had no point of the name ``forgotten``."""
    seen = Watch(forgotten)
    patch.setattr(Points, "reach", lambda _points, point: seen.reached(point))
    for kind in (SQLite, PostgreSQL):
        _around(patch, kind, "writing", lambda real: _writing(seen, real))
    for act in _ACTS:
        _around(patch, FakeDriver, act, lambda real: _after(seen, f"host: {real.__name__}", real))
    for act in _ACTS_OF_STORE:
        _around(patch, MemoryBackend, act, lambda real: _after(seen, f"store: {real.__name__}", real))
    _around(patch, ImageUploads, "upload", lambda real: _elsewhere(seen, "store: upload", real))
    _around(patch, Neighbour, "upload", lambda real: _elsewhere(seen, "host: upload", real))
    for act in ("plug", "unplug"):
        _around(patch, MemoryHost, act, lambda real: _after(seen, f"host: {real.__name__}", real))
    _around(patch, Post, "cast", lambda real: _before(seen, "cast", real))
    _around(patch, Post, "call", lambda real: _before(seen, "ask", real))
    _around(patch, Dispatcher, "work", lambda real: _works(seen, real, answered=False))
    _around(patch, Dispatcher, "answer", lambda real: _works(seen, real, answered=True))
    _around(patch, Cloud, "ask", lambda real: _request(seen, real))
    _around(patch, sweeper, "_end", lambda real: _overdue(seen, real))
    return seen


def _around(patch: pytest.MonkeyPatch, owner: Any, name: str, wrap: Callable[[Any], Any]) -> None:
    patch.setattr(owner, name, wrap(getattr(owner, name)))


def _writing(seen: Watch, real: Any) -> Any:
    @contextmanager
    def writing(kind: Any, durable: bool) -> Iterator[Any]:
        with real(kind, durable) as conn:
            yield conn
        seen.effect("write")

    return writing


def _after(seen: Watch, what: str, real: Any) -> Any:
    def act(*args: Any, **kwargs: Any) -> Any:
        answer = real(*args, **kwargs)
        seen.effect(what)
        return answer

    return act


def _elsewhere(seen: Watch, what: str, real: Any) -> Any:
    """What is done in this thread is another service's, where services run apart."""

    def act(*args: Any, **kwargs: Any) -> Any:
        with seen.message(""):
            answer = real(*args, **kwargs)
        seen.effect(what)
        return answer

    return act


def _before(seen: Watch, verb: str, real: Any) -> Any:
    def send(bus: Post, topic: str, method: str, *args: Any, **kwargs: Any) -> Any:
        if method in _MOVES_OPERATIONS:
            seen.effect(f"{verb} {method}")
        return real(bus, topic, method, *args, **kwargs)

    return send


def _works(seen: Watch, real: Any, answered: bool) -> Any:
    def work(dispatcher: Dispatcher, request: Any) -> Any:
        with seen.message(request.method, answered):
            return real(dispatcher, request)

    return work


def _request(seen: Watch, real: Any) -> Any:
    def ask(cloud: Cloud, method: str, path: str, *args: Any, **kwargs: Any) -> Any:
        changes = method != "GET" and path.startswith(_CHANGES)
        with seen.message(f"{method} {path.rpartition('/')[2]}" if changes else "", answered=changes):
            return real(cloud, method, path, *args, **kwargs)

    return ask


def _overdue(seen: Watch, real: Any) -> Any:
    def end(*args: Any) -> None:
        with seen.message("overdue operation"):
            real(*args)

    return end
