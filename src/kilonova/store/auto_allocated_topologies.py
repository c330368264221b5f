"""Queries about the network and the router that each project may have had made for it."""

from __future__ import annotations

from typing import NamedTuple

import sqlalchemy as sa

from kilonova.store import dialect
from kilonova.store.schema.networks import auto_allocated_topologies as topologies


class Topology(NamedTuple):
    network_id: str
    router_id: str | None


def lock(conn: sa.Connection, project_id: str) -> None:
    """Nobody else makes the project's, or takes it away, until the transaction ends."""
    dialect.lock(conn, "auto-allocated-topology", project_id)


def of(conn: sa.Connection, project_id: str) -> Topology | None:
    own = topologies.c
    row = conn.execute(sa.select(own.network_id, own.router_id).where(own.project_id == project_id)).first()
    return None if row is None else Topology(row.network_id, row.router_id)


def put(conn: sa.Connection, project_id: str, network_id: str, router_id: str) -> None:
    row = {"project_id": project_id, "network_id": network_id, "router_id": router_id}
    conn.execute(sa.insert(topologies), row)


def delete(conn: sa.Connection, project_id: str) -> None:
    conn.execute(sa.delete(topologies).where(topologies.c.project_id == project_id))
