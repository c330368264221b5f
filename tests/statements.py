"""The statements that a database is sent, whichever way they go: through SQLAlchemy, or past it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import sqlalchemy as sa

from kilonova.store.database import Database
from kilonova.store.statement import Statement


@contextmanager
def sent(db: Database) -> Iterator[list[str]]:
    """While the block runs, the statements that all threads of this process have sent so far."""
    said: list[str] = []
    compiled = Statement._for

    def past_sqlalchemy(statement: Statement, conn: sa.Connection, columns: tuple[str, ...]) -> Any:
        found = compiled(statement, conn, columns)
        said.append(found.text)
        return found

    def through_it(_conn: Any, _cursor: Any, text: str, *_: Any) -> None:
        said.append(text)

    sa.event.listen(db.engine, "before_cursor_execute", through_it)
    try:
        with mock.patch.object(Statement, "_for", past_sqlalchemy):
            yield said
    finally:
        sa.event.remove(db.engine, "before_cursor_execute", through_it)
