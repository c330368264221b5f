"""Block device mappings in the database: the disks that were asked for, and the volumes that servers have."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from msgspec import structs

from kilonova.domain.block_devices import BlockDevice, Destination, Source
from kilonova.store import dialect
from kilonova.store.database import Row
from kilonova.store.schema.block_devices import block_device_mappings as table
from kilonova.store.schema.servers import servers
from kilonova.store.statement import Statement

_FIELDS = [field.name for field in structs.fields(BlockDevice)]
_COLUMNS = [table.c[name] for name in _FIELDS]
_OF_SERVER = Statement(
    sa.select(*_COLUMNS).where(table.c.server_id == sa.bindparam("server")).order_by(table.c.position)
)
_INSERT = Statement(table.insert())


def insert(conn: sa.Connection, devices: Mapping[str, Sequence[BlockDevice]], first: int = 0) -> None:
    """Of {server: its disks}, in their order, from position ``first``."""
    rows = [
        structs.asdict(device) | {"server_id": server_id, "position": position}
        for server_id, own in devices.items()
        for position, device in enumerate(own, first)
    ]
    if rows:
        _INSERT.insert(conn, rows)


def of_server(conn: sa.Connection, server_id: str) -> list[BlockDevice]:
    """In their order."""
    return [_device(row) for row in _OF_SERVER.rows(conn, {"server": server_id})]


@dialect.once
def _of_servers(conn: sa.Connection) -> Statement:
    return Statement(
        sa.select(
            table.c.server_id,
            table.c.volume_id,
            table.c.delete_on_termination,
            table.c.boot_index,
            table.c.device_name,
        )
        .where(dialect.among(conn, table.c.server_id, "ids"), table.c.volume_id.is_not(None))
        .order_by(table.c.server_id, table.c.position)
    )


def volumes_of(conn: sa.Connection, server_ids: Sequence[str]) -> dict[str, list[Row]]:
    """Of each server that has any: volume_id, delete_on_termination, boot_index, device_name."""
    found: dict[str, list[Row]] = {}
    for row in _of_servers(conn).rows(conn, {"ids": server_ids}):
        found.setdefault(row.server_id, []).append(row)
    return found


def on_hosts(conn: sa.Connection, hosts: Collection[str]) -> dict[str, list[str]]:
    """Server → its volumes, of all servers on these hosts that have any; one query."""
    found: dict[str, list[str]] = {}
    for row in conn.execute(_ON_HOSTS, {"names": list(hosts)}):
        found.setdefault(row.server_id, []).append(row.volume_id)
    return found


_ON_HOSTS = (
    sa.select(table.c.server_id, table.c.volume_id)
    .join(servers, table.c.server_id == servers.c.id)
    .where(
        servers.c.host.in_(sa.bindparam("names", expanding=True)),
        servers.c.deleted_at.is_(None),
        table.c.volume_id.is_not(None),
    )
)


def find(conn: sa.Connection, server_id: str, volume_id: str) -> BlockDevice | None:
    """The server's disk that this volume is."""
    return next((device for device in of_server(conn, server_id) if device.volume_id == volume_id), None)


def has_attachment(conn: sa.Connection, server_id: str, attachment_id: str) -> bool:
    """Whether it is that of a disk of a server that lives."""
    query = (
        sa.select(table.c.id)
        .join(servers, table.c.server_id == servers.c.id)
        .where(
            table.c.server_id == server_id,
            table.c.attachment_id == attachment_id,
            servers.c.deleted_at.is_(None),
        )
    )
    return conn.execute(query).first() is not None


def hosts_of_volume(conn: sa.Connection, volume_id: str) -> list[tuple[str, str]]:
    """(server, host) of who has the volume.

    SELECT … FROM block_device_mappings JOIN servers … WHERE volume_id = … AND host IS NOT NULL
    """
    rows = conn.execute(
        sa.select(servers.c.id, servers.c.host)
        .join(table, table.c.server_id == servers.c.id)
        .where(table.c.volume_id == volume_id, servers.c.deleted_at.is_(None), servers.c.host.is_not(None))
        .order_by(servers.c.id)
    )
    return [(row.id, row.host) for row in rows]


def change(conn: sa.Connection, device_id: str, **values: Any) -> None:
    conn.execute(sa.update(table).where(table.c.id == device_id).values(**values))


def delete(conn: sa.Connection, device_id: str) -> None:
    conn.execute(sa.delete(table).where(table.c.id == device_id))


_DELETE_OF_SERVER = Statement(sa.delete(table).where(table.c.server_id == sa.bindparam("server")))


def delete_of_server(conn: sa.Connection, server_id: str) -> None:
    _DELETE_OF_SERVER.count(conn, {"server": server_id})


def next_position(conn: sa.Connection, server_id: str) -> int:
    last = conn.scalar(sa.select(sa.func.max(table.c.position)).where(table.c.server_id == server_id))
    return 0 if last is None else int(last) + 1


def _device(row: Row) -> BlockDevice:
    values = row._asdict()
    values["source_type"] = Source(values["source_type"])
    values["destination_type"] = Destination(values["destination_type"])
    return BlockDevice(**values)
