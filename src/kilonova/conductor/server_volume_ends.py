"""How an attach, a detach or a swap ends, and what becomes of a server's volumes when it starts, leaves its
host or is no more: in the transactions of those who end these.

An attach that failed leaves the server as it was, a detach or a swap that failed leaves the volume; none puts
the server in ERROR, as in Nova.
"""

from __future__ import annotations

from functools import partial

import sqlalchemy as sa

from kilonova import log
from kilonova.conductor.parts import Parts
from kilonova.conductor.server_volumes import swapped
from kilonova.domain.actions import ATTACH_VOLUME, DETACH_VOLUME, SWAP_VOLUME
from kilonova.domain.block_devices import BlockDevice
from kilonova.domain.errors import KilonovaError, NotFound
from kilonova.engine import lease
from kilonova.engine.interfaces import look_again
from kilonova.store import block_devices, operations
from kilonova.store.database import Row, after_commit

KINDS = frozenset({ATTACH_VOLUME, DETACH_VOLUME, SWAP_VOLUME})

_log = log.get("conductor")


def end(conn: sa.Connection, parts: Parts, work: Row, error: str | None) -> None:
    """Of an attach, a detach or a swap. Only who has the operation can commit this. ``error`` None: it went
    well.

    If it did not, the host compares the guest's volumes with the record: it may have done it, or half of it.
    """
    found = operations.get(conn, work.id)
    payload = found.payload if found is not None else {}
    devices = block_devices.of_server(conn, work.server_id)
    device = next((one for one in devices if one.id == payload.get("device_id")), None)
    if device is not None and device.attachment_id is not None:
        try:
            _ENDS[work.kind, error is None](conn, parts, device, device.attachment_id, payload)
        except NotFound as gone:  # somebody forced the volume away meanwhile
            error = error or gone.message
            for attachment_id in (device.attachment_id, payload.get("attachment_id")):
                if attachment_id is not None:
                    parts.volumes.release(attachment_id)
            block_devices.delete(conn, device.id)
    if error is None:
        lease.close(conn, work, operations.DONE)
    else:
        lease.close(conn, work, operations.FAILED, error)
        after_commit(conn, partial(_told, parts, work))


def _told(parts: Parts, work: Row) -> None:
    parts.faults.reach(f"{work.kind}.end.after")
    look_again(parts.bus, work.host, work.server_id)
    parts.faults.reach("refresh_interfaces.ring.after")


def _keep(
    _conn: sa.Connection, parts: Parts, device: BlockDevice, attachment_id: str, _payload: dict[str, str]
) -> None:
    parts.volumes.complete(attachment_id, device.device_name)


def _drop(
    conn: sa.Connection, parts: Parts, device: BlockDevice, attachment_id: str, _payload: dict[str, str]
) -> None:
    parts.volumes.release(attachment_id)
    block_devices.delete(conn, device.id)


def _stay(
    _conn: sa.Connection, parts: Parts, _device: BlockDevice, attachment_id: str, _payload: dict[str, str]
) -> None:
    parts.volumes.roll_detaching(attachment_id)


def _swap(
    conn: sa.Connection, parts: Parts, device: BlockDevice, attachment_id: str, payload: dict[str, str]
) -> None:
    new = swapped(device, payload)
    assert new.attachment_id is not None
    parts.volumes.complete(new.attachment_id, device.device_name)
    block_devices.change(conn, device.id, volume_id=new.volume_id, attachment_id=new.attachment_id)
    parts.volumes.release(attachment_id)


def _stay_unswapped(
    conn: sa.Connection, parts: Parts, device: BlockDevice, attachment_id: str, payload: dict[str, str]
) -> None:
    parts.volumes.release(payload["attachment_id"])
    _stay(conn, parts, device, attachment_id, payload)


_ENDS = {
    (ATTACH_VOLUME, True): _keep,
    (ATTACH_VOLUME, False): _drop,
    (DETACH_VOLUME, True): _drop,
    (DETACH_VOLUME, False): _stay,
    (SWAP_VOLUME, True): _swap,
    (SWAP_VOLUME, False): _stay_unswapped,
}
"""By the kind of the operation, and whether it went well."""


def complete_all(conn: sa.Connection, parts: Parts, server_id: str) -> None:
    """The server's guest, which was started, has its volumes."""
    for device in block_devices.of_server(conn, server_id):
        if device.attachment_id is not None:
            parts.volumes.complete(device.attachment_id, device.device_name)


def park_all(conn: sa.Connection, parts: Parts, server_id: str) -> None:
    """The server is on no host: its volumes stay promised to it."""
    for device in block_devices.of_server(conn, server_id):
        if device.attachment_id is not None:
            parts.volumes.park(device.attachment_id)


def release_all(conn: sa.Connection, parts: Parts, server_id: str) -> None:
    """The server, which is no more or was never built, has no volumes: those that are to go with it go.

    In the transaction that ends it. Its records stay only to say what was asked for.
    """
    goes: dict[str, bool] = {}
    for device in block_devices.of_server(conn, server_id):
        if device.attachment_id is not None:
            goes[device.attachment_id] = device.delete_on_termination
        elif device.is_new_volume and device.volume_id is not None and device.delete_on_termination:
            parts.volumes.discard(device.volume_id)
    for attachment_id in {*goes, *parts.volumes.attached([server_id]).get(server_id, [])}:
        parts.volumes.release(attachment_id, goes.get(attachment_id, False))
    block_devices.delete_of_server(conn, server_id)


def release_if_possible(parts: Parts, server_id: str) -> None:
    """Of a server that ends without its volumes being asked first: what cannot be freed now is freed with the
    server's delete."""
    try:
        with parts.db.write() as conn:
            release_all(conn, parts, server_id)
    except KilonovaError as error:
        _log.warning("volumes_stay", server=server_id, error=error.message)
