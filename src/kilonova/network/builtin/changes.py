"""What a transaction changes that hosts must look at again: told when it has committed, or never."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial

import sqlalchemy as sa

from kilonova.domain.network import Port
from kilonova.store.database import after_commit

_KEY = "kilonova.network-changes"


@dataclass(frozen=True, slots=True)
class Change:
    """Ids. ``groups`` have other rules, ``members`` other members, ``ports`` are not as they were.

    ``hosts``: names of those whose routers, or whose networks' gateways, are not as they were.
    ``networks`` are on other hosts than before.
    ``servers``: (host, id) of those of whose NICs one is gone, or has other addresses, or another link.
    """

    groups: Collection[str] = ()
    members: Collection[str] = ()
    ports: Collection[str] = ()
    hosts: Collection[str] = ()
    networks: Collection[str] = ()
    servers: Collection[tuple[str, str]] = ()


Tell = Callable[[Change], None]


def heard_by(conn: sa.Connection, tell: Tell | None) -> None:
    """Who is told of the changes of this connection's transactions. ``tell`` must not wait or raise."""
    conn.info[_KEY] = tell


def changed(conn: sa.Connection, change: Change) -> None:
    tell: Tell | None = conn.info.get(_KEY)
    said = (change.groups, change.members, change.ports, change.hosts, change.networks, change.servers)
    if tell is not None and any(said):
        after_commit(conn, partial(tell, change))


def membership(conn: sa.Connection, *sides: Sequence[Port]) -> None:
    """These ports came to their groups, or went from them, or have other addresses."""
    ports = [port for side in sides for port in side]
    changed(conn, Change(members={group for port in ports for group in port.security_groups}))
