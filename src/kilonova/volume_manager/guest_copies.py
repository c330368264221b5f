"""Copies of volumes that guests write to, made by the hypervisors of these guests, for snapshots.

A host is asked again and again, each time for some seconds: whoever dies, nobody waits for it. What a manager
left that was killed, the next one begins anew; what nobody needs any more is dropped.
"""

from __future__ import annotations

from kilonova import log
from kilonova.domain.errors import KilonovaError, StaleEpoch, Unavailable, VolumeFailed
from kilonova.domain.hosts import topic
from kilonova.domain.messages import Copied, CopyVolume, Nothing, VolumeCopy
from kilonova.domain.volumes import Connection, CopyState
from kilonova.store import volume_attachments
from kilonova.volume.base import ByGuest
from kilonova.volume_manager.task import Task

_TIMEOUT = 60.0
"""Seconds that a host has for one answer: it copies for some, and at the end of a copy a guest may take half
a minute to write what it has left."""

_log = log.get("volume")


def by_guest(task: Task, volume_id: str, snapshot_id: str) -> ByGuest:
    """Of the volume, for a snapshot that the task makes."""

    def copy(to: Connection) -> None:
        server_id, host = _who(task, volume_id)
        begin = True
        while True:
            if task.cancel.is_set():
                raise StaleEpoch(f"snapshot {snapshot_id} is not wanted any more")
            message = CopyVolume(
                server_id=server_id,
                volume_id=volume_id,
                snapshot_id=snapshot_id,
                to=to,
                begin=begin,
                in_order=bool(task.work.payload.get("in_order")),
            )
            task.reach("copy_by_guest.before")
            state = task.parts.bus.call(topic(host), "copy_volume", message, Copied, timeout=_TIMEOUT).state
            task.reach("copy_by_guest.after")
            if state is CopyState.COPIED:
                return
            if state is CopyState.OFF:
                raise Unavailable(f"volume {volume_id} is in use, and no guest has it now")
            begin = False

    return copy


def drop(task: Task, volume_id: str, snapshot_id: str) -> None:
    """Nothing is copied for that snapshot, as far as its host can be asked."""
    for server_id, host in places(task, volume_id):
        message = VolumeCopy(server_id=server_id, volume_id=volume_id, snapshot_id=snapshot_id)
        try:
            task.parts.bus.call(topic(host), "drop_copy", message, Nothing, timeout=_TIMEOUT)
        except KilonovaError as error:
            _log.warning("copy_not_dropped", snapshot=snapshot_id, host=host, error=error.message)
        task.reach("drop_copy.after")


def _who(task: Task, volume_id: str) -> tuple[str, str]:
    found = places(task, volume_id)
    if not found:
        raise Unavailable(f"volume {volume_id} is in use, and no server has it now")
    if len(found) > 1:
        raise VolumeFailed("more than one server has the volume: none of them can copy what all write")
    return found[0]


def places(task: Task, volume_id: str) -> list[tuple[str, str]]:
    """(server, host) of who may have it open."""
    with task.parts.db.read() as conn:
        found = volume_attachments.of_volume(conn, volume_id)
    return [(one.server_id, one.host) for one in found if one.server_id and one.host]
