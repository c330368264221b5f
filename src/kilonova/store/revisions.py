"""How what the network service keeps changes: each change is a revision of its own, as in Neutron."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from kilonova.domain.clock import now


def change(
    conn: sa.Connection, table: sa.Table, which: sa.ColumnElement[bool], changes: Mapping[str, Any]
) -> None:
    """These values of the rows, or, without any, only that something of them changed."""
    conn.execute(
        sa.update(table)
        .where(which)
        .values(**changes, updated_at=now(), revision_number=table.c.revision_number + 1)
    )


def locked(conn: sa.Connection, table: sa.Table, item_id: str) -> int | None:
    """The row's revision, which nobody else changes until the transaction ends; None: it is gone.

    Whoever changes a resource may have locked other rows before this one. Where two wait for each other the
    database rolls one of them back, and it is done again (store/repeat.py).
    """
    query = sa.select(table.c.revision_number).where(table.c.id == item_id)
    return conn.scalar(query.with_for_update(key_share=True))
