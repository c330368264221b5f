"""What a project may use: the configuration's limits, then an admin's for everybody, then its own."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import sqlalchemy as sa
from sqlalchemy import bindparam as given

from kilonova.config import Quota
from kilonova.store import dialect
from kilonova.store.schema.quotas import quotas
from kilonova.store.statement import Statement

EVERY_PROJECT = ""
"""In place of a project's id: the limits of all that have none of their own."""


_LIMITS = Statement(
    sa.select(quotas.c.resource, quotas.c.hard_limit)
    .where(sa.or_(quotas.c.project_id == EVERY_PROJECT, quotas.c.project_id == given("project")))
    .order_by(quotas.c.project_id)
)


def limits(conn: sa.Connection, project_id: str, configured: Quota) -> dict[str, int]:
    """Limit by resource; -1 is none.

    SELECT … FROM quotas WHERE project_id IN ('', :project) ORDER BY project_id — the project's own come last.
    """
    found: dict[str, int] = msgspec.structs.asdict(configured)
    found.update((row.resource, row.hard_limit) for row in _LIMITS.rows(conn, {"project": project_id}))
    return found


def change(conn: sa.Connection, project_id: str, new: Mapping[str, int]) -> None:
    """Set these limits of a project, or of EVERY_PROJECT; the others stay."""
    if not new:
        return
    query = dialect.insert(conn, quotas)
    query = query.on_conflict_do_update(
        index_elements=["project_id", "resource"], set_={"hard_limit": query.excluded.hard_limit}
    )
    rows = [{"project_id": project_id, "resource": name, "hard_limit": limit} for name, limit in new.items()]
    conn.execute(query, rows)


def reset(conn: sa.Connection, project_id: str) -> None:
    """The project's own limits are gone; those of everybody hold again."""
    conn.execute(sa.delete(quotas).where(quotas.c.project_id == project_id))
