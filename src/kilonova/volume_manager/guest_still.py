"""Guests whose file systems are held still while a store takes a snapshot of a volume that they write to.

Their hosts hold them, for a bounded time: a manager that dies in between keeps no guest from writing for
long.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from kilonova import log
from kilonova.domain.errors import BuildFailed, KilonovaError, Unavailable, VolumeFailed
from kilonova.domain.hosts import topic
from kilonova.domain.messages import HeldStill, HoldStill, VolumeCopy
from kilonova.volume.base import Still
from kilonova.volume_manager import guest_copies
from kilonova.volume_manager.task import Task

_TIMEOUT = 60.0
"""Seconds that a host has for one answer: a guest may take half a minute to write what it has left."""
_log = log.get("volume")


def still(task: Task, volume_id: str, snapshot_id: str) -> Still:
    """Of the volume, for a snapshot that the task makes. Where a guest cannot be held the snapshot is taken
    as after a power failure, unless the operation says ``in_order``: VolumeFailed then."""
    in_order = is_in_order(task)

    @contextmanager
    def held() -> Iterator[None]:
        places = guest_copies.places(task, volume_id)
        if len(places) != 1:
            if places and in_order:
                raise VolumeFailed("more than one server has the volume: none can hold still for all")
            yield
            return
        (server_id, host) = places[0]
        message = HoldStill(
            server_id=server_id, volume_id=volume_id, snapshot_id=snapshot_id, in_order=in_order
        )
        try:
            is_held = _hold(task, host, message)
            yield
        finally:
            whole = _let_go(task, host, message)
        if in_order and is_held and not whole:
            raise Unavailable(f"guest {server_id} went on before its snapshot was there")

    return held


def is_in_order(task: Task) -> bool:
    return bool(task.work.payload.get("in_order"))


def _hold(task: Task, host: str, message: HoldStill) -> bool:
    task.reach("hold_still.before")
    try:
        held = task.parts.bus.call(topic(host), "hold_still", message, HeldStill, timeout=_TIMEOUT).held
    except KilonovaError as error:
        if message.in_order and isinstance(error, BuildFailed):
            raise VolumeFailed(error.message) from error
        if message.in_order:
            raise
        _log.warning("not_held", server=message.server_id, host=host, error=error.message)
        held = False
    task.reach("hold_still.after")
    return held


def _let_go(task: Task, host: str, message: HoldStill) -> bool:
    """Whether it was held until now. If its host does not answer, that lets it go by itself."""
    asked = VolumeCopy(
        server_id=message.server_id, volume_id=message.volume_id, snapshot_id=message.snapshot_id
    )
    try:
        return task.parts.bus.call(topic(host), "go_on", asked, HeldStill, timeout=_TIMEOUT).held
    except KilonovaError as error:
        _log.warning("not_let_go", server=message.server_id, host=host, error=error.message)
        return False
