"""Attachments: a volume promised to a server, shown to its host, held by its guest, let go of.

A volume's status follows from its attachments; the transactions here lock the volume before they look at
them. The way to the bytes is asked of the volume's manager, outside of any transaction.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence

import msgspec
import sqlalchemy as sa

from kilonova.domain import codec
from kilonova.domain.clock import now
from kilonova.domain.context import RequestContext
from kilonova.domain.errors import Conflict
from kilonova.domain.messages import Connected, ConnectVolume
from kilonova.domain.volumes import (
    AttachStatus,
    Connection,
    Connector,
    IscsiConnection,
    VolumeStatus,
    VolumeWork,
    manager_topic,
)
from kilonova.store import volume_attachments as store
from kilonova.store import volumes
from kilonova.store.database import Row
from kilonova.volume.builtin.errors import (
    attachment_not_found,
    invalid_volume,
    volume_not_found,
    wrong_status,
)
from kilonova.volume.builtin.parts import Parts, begin, system_context
from kilonova.volume.builtin.volumes import delete_unless_needed, owner
from kilonova.volume.builtin.volumes import find as find_volume

_FOLLOWS = {
    AttachStatus.ATTACHED: VolumeStatus.IN_USE,
    AttachStatus.DETACHING: VolumeStatus.DETACHING,
    AttachStatus.ATTACHING: VolumeStatus.ATTACHING,
    AttachStatus.RESERVED: VolumeStatus.RESERVED,
}
"""A volume's status by its attachments': the first one that any of them has."""
_BY_USE = frozenset(_FOLLOWS.values()) | {VolumeStatus.AVAILABLE}


def status_of(attachments: Sequence[Row]) -> VolumeStatus:
    found = {attachment.status for attachment in attachments}
    return next((shown for status, shown in _FOLLOWS.items() if status in found), VolumeStatus.AVAILABLE)


def settle(conn: sa.Connection, volume: Row) -> None:
    """The volume, which is locked, shows what its attachments are; unless something else is done to it, which
    goes back to that when it ends."""
    status = status_of(store.of_volume(conn, volume.id))
    if volume.status in _BY_USE:
        volumes.change(conn, volume.id, status=status)
    elif volume.previous_status in _BY_USE:
        volumes.change(conn, volume.id, previous_status=status)


def find(conn: sa.Connection, context: RequestContext, attachment_id: str) -> Row:
    found = store.get(conn, attachment_id, owner(context))
    if found is None:
        raise attachment_not_found(attachment_id)
    return found


def reserve(
    conn: sa.Connection,
    context: RequestContext,
    volume_id: str,
    server_id: str | None,
    attachment_id: str | None = None,
    mode: str = "rw",
) -> str:
    """Promise it: the attachment's id. Again with the same id: the same one."""
    volume = find_volume(conn, context, volume_id, for_update=True)
    attachment_id = attachment_id or str(uuid.uuid4())
    if store.get(conn, attachment_id) is not None:
        return attachment_id
    in_use = volume.multiattach and volume.status in (VolumeStatus.IN_USE, VolumeStatus.RESERVED)
    if volume.status != VolumeStatus.AVAILABLE and not in_use:
        allowed = "available or in-use or downloading" if volume.multiattach else "available or downloading"
        raise wrong_status("reserve", volume_id, allowed, volume.status)
    if not volume.multiattach and store.of_volume(conn, volume_id):
        raise invalid_volume(f"Volume {volume_id} is {volume.status}, and yet attached to a server.")
    row = {
        "id": attachment_id,
        "volume_id": volume_id,
        "project_id": volume.project_id,
        "server_id": server_id,
        "attach_mode": "ro" if volume.readonly else mode,
        "status": AttachStatus.RESERVED,
        "created_at": now(),
    }
    store.insert(conn, row)
    settle(conn, volume)
    return attachment_id


def connect(
    parts: Parts,
    attachment_id: str,
    connector: Connector,
    check: Callable[[], object] = lambda: None,
    check_server: Callable[[], object] = lambda: None,
) -> Connection:
    """Shown to that host: ``attaching``, or what it is further. Not in a transaction.

    The host is in the record before its way is made, so that nobody who looks takes the way away. A host that
    had it before, and has lost it to this one, has no way there any more. ``check`` and ``check_server`` are
    called where the host is written down, in that transaction, and raise if the host may not have it any
    more; the one may lock an operation, the other, which comes when the volume is locked, the server.
    """
    given = msgspec.to_builtins(connector)
    with parts.db.write() as conn:
        check()
        volume, attachment = _locked(conn, attachment_id)
        check_server()
        _forget_way(conn, parts, volume, attachment, connector)
        values = {"connector": given, "host": connector.host}
        if attachment.status == AttachStatus.RESERVED:
            values["status"] = AttachStatus.ATTACHING
        store.change(conn, attachment_id, **values)
        settle(conn, volume)
    parts.reach("volume_connect.record.after")
    connection = ask(parts, volume, connector)
    parts.reach("volume_connect.call.after")
    with parts.db.write() as conn:
        found = store.get(conn, attachment_id, for_update=True)
        lost = found is None or found.connector != given
        if lost:  # its end may have closed the way before it was made
            _disconnect(conn, parts, volume, given, str(uuid.uuid4()))
        else:
            store.change(conn, attachment_id, connection=_without_secret(connection))
    parts.reach("volume_connect.end.after")
    if lost:
        raise attachment_not_found(attachment_id)
    return connection


def _forget_way(
    conn: sa.Connection, parts: Parts, volume: Row, attachment: Row, but: Connector | None
) -> None:
    """The host that had the attachment, if it is another than ``but``, has no way there any more."""
    before = None if attachment.connector is None else codec.convert(attachment.connector, Connector)
    if before is not None and (but is None or not before.is_same_way(but)):
        # Under a name of its own: the attachment may end, or have it again, before this is done.
        _disconnect(conn, parts, volume, attachment.connector, str(uuid.uuid4()))


def ask(parts: Parts, volume: Row, connector: Connector) -> Connection:
    """The volume's manager. Unavailable, VolumeFailed."""
    request = ConnectVolume(volume_id=volume.id, host=volume.host, connector=connector)
    return parts.bus.call(manager_topic(volume.host), "connect", request, Connected).connection


def _without_secret(connection: Connection) -> object:
    if isinstance(connection, IscsiConnection):
        connection = msgspec.structs.replace(connection, password="")
    return msgspec.to_builtins(connection)


def known_connection(attachment: Row) -> Connection | None:
    """As it was given last, without its password."""
    if attachment.connection is None:
        return None
    kind: type[Connection] = Connection  # type: ignore[assignment]
    return codec.convert(attachment.connection, kind)


def connection(parts: Parts, attachment_id: str) -> Connection | None:
    """With its password, if there is one. Not in a transaction."""
    with parts.db.read() as conn:
        attachment = store.get(conn, attachment_id)
        volume = None if attachment is None else volumes.get(conn, attachment.volume_id)
    if attachment is None or volume is None:
        return None
    known = known_connection(attachment)
    if not isinstance(known, IscsiConnection):
        return known
    return ask(parts, volume, codec.convert(attachment.connector, Connector))


def complete(conn: sa.Connection, attachment_id: str, mountpoint: str) -> None:
    volume, attachment = _locked(conn, attachment_id)
    store.change(
        conn,
        attachment_id,
        status=AttachStatus.ATTACHED,
        mountpoint=mountpoint or attachment.mountpoint,
        attached_at=attachment.attached_at or now(),
    )
    settle(conn, volume)


def begin_detaching(conn: sa.Connection, attachment_id: str) -> None:
    volume, attachment = _locked(conn, attachment_id)
    if attachment.status == AttachStatus.DETACHING:
        return
    if attachment.status != AttachStatus.ATTACHED:
        raise Conflict(
            f"Invalid volume: Volume {volume.id} status must be in-use to detach, but the current status is "
            f"{volume.status}."
        )
    store.change(conn, attachment_id, status=AttachStatus.DETACHING)
    settle(conn, volume)


def roll_detaching(conn: sa.Connection, attachment_id: str) -> None:
    volume, attachment = _locked(conn, attachment_id)
    if attachment.status == AttachStatus.DETACHING:
        store.change(conn, attachment_id, status=AttachStatus.ATTACHED)
        settle(conn, volume)


def release(
    conn: sa.Connection,
    parts: Parts,
    attachment_id: str,
    delete_volume: bool = False,
    request_id: str = "",
) -> None:
    """No more: its host's way there is closed by the volume's manager. Nothing if it is gone already.

    A volume that has snapshots, or is being copied, is not deleted, as Cinder refuses it: it is available.
    """
    attachment = store.get(conn, attachment_id)
    if attachment is None:
        return
    volume = volumes.get(conn, attachment.volume_id, for_update=True)
    if not store.delete(conn, attachment_id) or volume is None:
        return
    context = system_context(request_id, volume.project_id, volume.user_id)
    free = not store.of_volume(conn, volume.id)
    if delete_volume and free and delete_unless_needed(conn, parts, context, volume):
        return
    settle(conn, volume)
    if attachment.connector is not None:
        _disconnect(conn, parts, volume, attachment.connector, attachment_id, request_id)


def park(conn: sa.Connection, parts: Parts, attachment_id: str) -> None:
    """A promise again, without a host, whose way there is closed. Nothing if it is gone."""
    if store.get(conn, attachment_id) is None:
        return
    volume, attachment = _locked(conn, attachment_id)
    store.change(
        conn, attachment_id, status=AttachStatus.RESERVED, host=None, connector=None, connection=None
    )
    settle(conn, volume)
    _forget_way(conn, parts, volume, attachment, None)


def _disconnect(
    conn: sa.Connection, parts: Parts, volume: Row, connector: object, of: str, request_id: str = ""
) -> None:
    """The manager closes a host's way, unless another attachment brings it there. ``of``: what the operation
    is of, an attachment that is no more."""
    if volume.host is None:
        return
    context = system_context(request_id, volume.project_id, volume.user_id)
    payload = {"volume_id": volume.id, "connector": connector}
    begin(conn, parts, context, VolumeWork.DISCONNECT, of, volume.project_id, volume.host, payload)


def _locked(conn: sa.Connection, attachment_id: str) -> tuple[Row, Row]:
    """Its volume, locked, and the attachment. NotFound."""
    attachment = store.get(conn, attachment_id)
    if attachment is None:
        raise attachment_not_found(attachment_id)
    volume = volumes.get(conn, attachment.volume_id, for_update=True)
    if volume is None:
        raise volume_not_found(attachment.volume_id)
    again = store.get(conn, attachment_id)
    if again is None:
        raise attachment_not_found(attachment_id)
    return volume, again
