"""What was deleted long ago is forgotten, and nothing else; some at a time."""

from __future__ import annotations

import math
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from tests.functional.builds.cloud import PATIENCE, Cloud
from tests.functional.builds.conftest import MakeCloud
from tests.running import until

from kilonova.cli import main
from kilonova.conductor.hearing import Hearing
from kilonova.conductor.purge import DAY, Purge
from kilonova.config import Config, Database, Operations
from kilonova.domain.clock import now
from kilonova.domain.errors import Timeout
from kilonova.store import purge, tokens
from kilonova.store.schema.images import images
from kilonova.store.schema.operations import operations, steps
from kilonova.store.schema.servers import servers

TABLES = (servers, operations, steps, images)


def deleted_server(cloud: Cloud, days: float) -> str:
    """One that was built, and deleted so long ago."""
    server_id = cloud.active()
    cloud.delete(server_id)
    cloud.gone(server_id)
    cloud.sql("UPDATE servers SET deleted_at = ? WHERE id = ?", now() - days * DAY, server_id)
    return server_id


def more_of(cloud: Cloud, server_id: str, count: int) -> None:
    """So many others like it, each with its operations and steps."""
    with cloud.db.write() as conn:
        server = conn.execute(sa.select(servers).where(servers.c.id == server_id)).one()._asdict()
        work = conn.execute(sa.select(operations).where(operations.c.server_id == server_id)).all()
        for number in range(count):
            other = f"{number:08x}{server_id[8:]}"
            conn.execute(servers.insert().values({**server, "id": other}))
            for kind, row in enumerate(work):
                ids = {"id": f"{number:07x}{kind}{row.id[8:]}", "server_id": other}
                conn.execute(operations.insert().values({**row._asdict(), **ids}))
                step = {"operation_id": ids["id"], "epoch": 1, "name": "s", "started_at": 1.0}
                conn.execute(steps.insert().values(step))


def deleted_image(cloud: Cloud, image_id: str, days: float) -> None:
    values = {"id": image_id, "status": "deleted", "deleted_at": now() - days * DAY, "visibility": "private"}
    values |= dict.fromkeys(("min_disk", "min_ram", "created_at", "updated_at"), 0)
    with cloud.db.write() as conn:
        conn.execute(images.insert().values(**values, protected=False, os_hidden=False))


def counts(cloud: Cloud) -> list[int]:
    with cloud.db.read() as conn:
        return [conn.execute(sa.select(sa.func.count()).select_from(table)).scalar_one() for table in TABLES]


def ids(cloud: Cloud, table: sa.Table) -> set[str]:
    with cloud.db.read() as conn:
        return set(conn.execute(sa.select(table.c.id)).scalars())


def test_what_is_old_goes_with_all_its_records(cloud: Cloud) -> None:
    alive, young = cloud.active(), deleted_server(cloud, days=9)
    deleted_image(cloud, "young", days=9)
    kept = counts(cloud)
    deleted_server(cloud, days=11)
    deleted_image(cloud, "old", days=11)
    assert purge.purge(cloud.db, now() - 10 * DAY) == (1, 1)
    assert counts(cloud) == kept
    assert (ids(cloud, servers), ids(cloud, images)) == ({alive, young}, {"young"})
    assert [action["action"] for action in cloud.actions(alive)] == ["create"]
    assert cloud.unexplained() == []
    assert purge.purge(cloud.db, now() - 10 * DAY) == (0, 0)


def test_a_transaction_is_bounded_and_takes_the_oldest(cloud: Cloud) -> None:
    old, oldest = deleted_server(cloud, days=20), deleted_server(cloud, days=40)
    assert purge.purge(cloud.db, now(), limit=1) == (1, 0)
    assert ids(cloud, servers) == {old}
    assert oldest not in ids(cloud, servers)


def test_the_conductor_does_it_by_itself_batch_after_batch(make_cloud: MakeCloud) -> None:
    cloud = make_cloud(config=Config(database=Database(keep_deleted_days=10)))
    alive, young, old = cloud.active(), deleted_server(cloud, days=9), deleted_server(cloud, days=11)
    more_of(cloud, old, 2 * purge.BATCH + 1)
    with cloud.db.write() as conn:
        tokens.revoke(conn, "expired", now() - 1)
        tokens.revoke(conn, "valid", now() + 100)
    cloud.keep_sweeping()
    until(lambda: ids(cloud, servers) == {alive, young}, PATIENCE, "the old ones to go")
    assert counts(cloud)[:2] == [2, 3]
    assert cloud.sql("SELECT audit_id FROM revoked_tokens") == [("valid",)]


def test_what_cannot_be_forgotten_keeps_the_sweeper_from_nothing_and_waits(
    make_cloud: MakeCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not from saying that hosts can be heard, either: else none would ever be taken for dead."""
    cloud = make_cloud(config=Config(operations=Operations(sweep_interval=0.01)))
    rounds, tries = threading.Semaphore(0), []
    monkeypatch.setattr(Hearing, "again", lambda _hearing: rounds.release())

    def refuse(_db: Any) -> None:
        tries.append(1)
        raise Timeout("The database took too long.")

    monkeypatch.setattr(purge, "forget_expired_revocations", refuse)
    monkeypatch.setattr("kilonova.conductor.purge._INTERVAL", math.inf)  # no round comes so late
    cloud.keep_sweeping()
    for _ in range(3):
        assert rounds.acquire(timeout=PATIENCE)
    assert len(tries) == 1


def test_zero_days_keep_them_for_ever(cloud: Cloud) -> None:
    old = deleted_server(cloud, days=10_000)
    config = Config(database=Database(keep_deleted_days=0))
    Purge(replace(cloud.conductor, config=config)).round()
    assert ids(cloud, servers) == {old}


def test_the_rows_are_found_by_an_index(cloud: Cloud) -> None:
    if cloud.db.engine.name != "sqlite":
        pytest.skip("PostgreSQL reads small tables whole")
    plans = [
        cloud.sql(f"EXPLAIN QUERY PLAN SELECT id FROM {table} WHERE {where} ORDER BY deleted_at LIMIT 100")
        for table, where in (
            ("servers", "deleted_at < 1"),
            ("images", "status = 'deleted' AND deleted_at < 1"),
        )
    ]
    assert all("USING" in plan[0][3] and "INDEX" in plan[0][3] for plan in plans), plans


def test_by_hand(cloud: Cloud, tmp_path: Path) -> None:
    deleted_server(cloud, days=2)
    more_of(cloud, deleted_server(cloud, days=5), purge.BATCH)
    config = tmp_path / "kilonova.toml"
    url = cloud.db.url
    config.write_text(f'[database]\nconnection = "{url}"\n')

    def run(days: str) -> Any:
        return CliRunner().invoke(main, ["db", "purge", "--config", str(config), "--older-than", days])

    assert "0 servers and 0 images were forgotten" in run("6").output
    assert "101 servers and 0 images were forgotten" in run("3").output
    assert "1 servers and 0 images were forgotten" in run("0").output
    assert counts(cloud) == [0, 0, 0, 0]
    assert run("-1").exit_code == 2
