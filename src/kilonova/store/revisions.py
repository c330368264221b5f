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
