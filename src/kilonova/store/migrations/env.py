"""Run by Alembic: the connection is given by store.migrate, never read from a file."""

from __future__ import annotations

from typing import Any, Literal

from alembic import context

from kilonova.store.schema import metadata
from kilonova.store.schema.base import Json


def _render(kind: str, thing: Any, _context: Any) -> str | Literal[False]:
    """A revision names plain SQL types: it must stay readable when our own types change."""
    return "sa.Text()" if kind == "type" and isinstance(thing, Json) else False


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_item=_render,
    compare_type=False,
)
with context.begin_transaction():
    context.run_migrations()
