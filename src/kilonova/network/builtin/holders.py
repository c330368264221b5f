"""A port that changes or goes while a server holds it: the server's record follows in the same transaction.

Its host must look again then; who runs the transaction tells it after the commit.
"""

from __future__ import annotations

from typing import NamedTuple

import sqlalchemy as sa

from kilonova.network.builtin import instances
from kilonova.store import ports as store
from kilonova.store import servers


class Holder(NamedTuple):
    server_id: str
    host: str


def of_port(conn: sa.Connection, port_id: str) -> Holder | None:
    """The server that has the port as a NIC, and its host; None if no server has it."""
    port = store.by_id(conn, [port_id]).get(port_id)
    if port is None or port.nic is None:
        return None
    return Holder(port.device_id, port.host)


def follow(conn: sa.Connection, server_id: str) -> None:
    """The server's record has the NICs that its ports are now."""
    servers.set_vifs(conn, server_id, instances.vifs_of(conn, store.of_servers(conn, [server_id])))
