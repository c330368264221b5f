"""Statements give what SQLAlchemy's own execution gives, on both databases."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import bindparam as given

from kilonova.domain.errors import RolledBack
from kilonova.domain.servers import TaskState
from kilonova.store.database import Database
from kilonova.store.schema.hosts import services
from kilonova.store.schema.operations import operations as ops
from kilonova.store.statement import Statement

INSERT = Statement(ops.insert())
ALL = Statement(sa.select(ops).order_by(ops.c.id))


@pytest.fixture
def db(new_database: Callable[..., Database]) -> Database:
    return new_database()


def row(**more: Any) -> dict[str, Any]:
    texts = dict.fromkeys(("kind", "record", "server_id", "project_id", "user_id", "request_id"), "x")
    numbers = dict.fromkeys(("epoch", "attempt"), 0) | dict.fromkeys(("created_at", "updated_at"), 1.5)
    lists = {"tried_hosts": ["h1", "h2"], "alternates": [], "payload": {"a": {"b": None}}}
    other = {"id": str(uuid.uuid4()), "state": "done", "lease_until": 0.0, "deadline": 2, "host": None}
    return {**texts, **numbers, **lists, **other, **more}


def test_it_reads_what_sqlalchemy_reads(db: Database) -> None:
    with db.write() as conn:
        INSERT.insert(conn, [row(), row(host="h1")])
        INSERT.insert(conn, [row(message="one by itself, of other columns")])
        ours = [found._asdict() for found in ALL.rows(conn)]
        theirs = [dict(found) for found in conn.execute(sa.select(ops).order_by(ops.c.id)).mappings()]
    assert len(ours) == 3
    assert ours == theirs
    assert {type(found["deadline"]) for found in ours} == {float}


def test_values_are_converted_on_their_way_in(db: Database) -> None:
    change = Statement(
        sa.update(ops)
        .where(ops.c.state == "done", ops.c.id == given("which"))
        .values(payload=given("new", type_=ops.c.payload.type), message=given("said"))
    )
    one = row()
    with db.write() as conn:
        INSERT.insert(conn, [one, row()])
        assert change.count(conn, {"which": one["id"], "new": [1, "ü"], "said": TaskState.SPAWNING}) == 1
        assert change.count(conn, {"which": "nobody's", "new": [], "said": ""}) == 0
        found = Statement(sa.select(ops).where(ops.c.id == given("which"))).row(conn, {"which": one["id"]})
    assert found is not None
    assert (found.payload, found.message) == ([1, "ü"], "spawning")


def test_no_row_is_none(db: Database) -> None:
    with db.read() as conn:
        assert ALL.row(conn) is None
        assert ALL.rows(conn) == []


def test_defaults_of_columns_are_filled_in(db: Database) -> None:
    service = dict.fromkeys(("id", "binary", "host", "availability_zone"), "x")
    with db.write() as conn:
        Statement(services.insert()).insert(
            conn, [service | dict.fromkeys(("last_seen", "created_at", "updated_at"), 1.0)]
        )
        found = conn.execute(sa.select(services)).one()
    assert (found.disabled, found.forced_down) == (False, False)


def test_a_statement_that_fails_undoes_its_transaction(db: Database) -> None:
    one = row()
    with db.write() as conn:
        INSERT.insert(conn, [one])

    def again() -> None:
        with db.write() as conn:
            INSERT.insert(conn, [row()])
            INSERT.insert(conn, [one])

    if db.engine.name == "postgresql":  # perhaps somebody else's row
        with pytest.raises(RolledBack):
            again()
    else:
        with pytest.raises(Exception, match="UNIQUE"):
            again()
    with db.write() as conn:
        assert len(ALL.rows(conn)) == 1
