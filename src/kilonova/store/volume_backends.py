"""The backends that managers report: where volumes can be."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa

from kilonova.domain.clock import now
from kilonova.store import dialect
from kilonova.store.database import Row
from kilonova.store.schema.volumes import volume_backends as table


def report(conn: sa.Connection, row: dict[str, Any]) -> None:
    """A backend as its manager sees it now; whether it is enabled stays as it is."""
    at = now()
    query = dialect.insert(conn, table).values(
        **row, disabled=False, disabled_reason=None, created_at=at, reported_at=at
    )
    changed = {name: query.excluded[name] for name in (*row, "reported_at") if name != "host"}
    conn.execute(query.on_conflict_do_update(index_elements=["host"], set_=changed))


def left(conn: sa.Connection, manager: str, there: Collection[str]) -> None:
    """Those of that manager that are not ``there`` (hosts) are down from now, without the wait: its
    configuration knows them no more."""
    old = sa.and_(table.c.host.startswith(f"{manager}@", autoescape=True), table.c.host.not_in(list(there)))
    conn.execute(sa.update(table).where(old).values(reported_at=0.0))


def every(conn: sa.Connection) -> Sequence[Row]:
    return conn.execute(sa.select(table).order_by(table.c.host)).all()


def get(conn: sa.Connection, host: str) -> Row | None:
    return conn.execute(sa.select(table).where(table.c.host == host)).first()


def switch(conn: sa.Connection, host: str, disabled: bool, reason: str | None) -> bool:
    """False if there is no such backend."""
    query = sa.update(table).where(table.c.host == host)
    return conn.execute(query.values(disabled=disabled, disabled_reason=reason)).rowcount == 1
