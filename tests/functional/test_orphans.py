"""``kilonova doctor --orphans``: what nobody owns is listed, and nothing else is; nothing is removed."""

from __future__ import annotations

import json
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result
from tests.running import Up, until
from tests.volume_store import MemoryBackend

from kilonova.cli.doctor import doctor
from kilonova.cli.orphans import find
from kilonova.config import Config
from kilonova.store import orphans
from kilonova.store.database import Database
from kilonova.store.schema.base import Json, metadata
from kilonova.volume.base import Backend


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Up:
    """With an image, a server and a volume; stopped."""
    up = Up(tmp_path_factory.mktemp("orphans") / "state").start()
    try:
        up.image_id = up.image(b"boot")  # type: ignore[attr-defined]
        status, made = up.ask("POST", "/volume/v3/volumes", {"volume": {"size": 1}})
        assert status == 202, made
        volume_id = made["volume"]["id"]

        def available() -> bool:
            found = up.ask("GET", f"/volume/v3/volumes/{volume_id}")[1]["volume"]
            return bool(found["status"] == "available")

        until(available, 60, "the volume")
    finally:
        up.stop()
    return up


def asked(up: Up, *more: str) -> Result:
    return CliRunner().invoke(doctor, ["--orphans", "--state", str(up.state), *more])


def test_what_has_a_record_is_no_orphan(up: Up) -> None:
    result = asked(up)
    assert (result.exit_code, result.output) == (0, "0 found\n")
    assert len(list((up.state / "volumes").glob("volume-*"))) == 1


def test_what_has_none_is_listed_and_stays(up: Up, tmp_path: Path) -> None:
    ids = {
        kind: str(uuid4()) for kind in ("volume", "half", "snapshot", "image", "upload", "staged", "server")
    }
    (owned,) = (up.state / "volumes").glob("volume-*")
    host = next((up.state / "hosts").iterdir())
    made = [
        up.state / "volumes" / f"volume-{ids['volume']}",
        up.state / "volumes" / f"volume-{ids['half']}.part",
        owned.with_name(f"{owned.name}.snapshot-{ids['snapshot']}"),
        up.state / "images" / ids["image"],
        up.state / "images" / f"{ids['upload']}.0123.part",
        up.state / "images" / "staging" / f"{ids['staged']}.raw",
        host / "instances" / ids["server"] / "disk",
        up.state / "images" / "not-an-id",
    ]
    for path in made:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    result = asked(up, "--json")
    assert result.exit_code == 1
    found = {(one["kind"], one["id"]) for one in json.loads(result.output)}
    assert found == {
        ("volume", ids["volume"]),
        ("volume", ids["half"]),
        ("snapshot", ids["snapshot"]),
        ("image", ids["image"]),
        ("image", ids["upload"]),
        ("image on its way", ids["staged"]),
        ("disks of a server", ids["server"]),
    }
    assert all(path.exists() for path in made)
    assert f"volume in file: {ids['volume']}\n" in asked(up).output


def test_a_store_that_does_not_answer_is_said_to_be_unknown(up: Up, tmp_path: Path) -> None:
    config = tmp_path / "kilonova.toml"
    config.write_text(
        '[volume.backends.ceph]\ndriver = "rbd"\nrbd_ceph_conf = "/nowhere/ceph.conf"\n'
        f'[image]\nfilesystem_store_datadir = "{tmp_path}"\n'
    )
    result = asked(up, "--config", str(config))
    assert result.exit_code == 1
    assert "volume in ceph: Ceph (/nowhere/ceph.conf, client.cinder): " in result.output


def test_without_records_nothing_is_said(tmp_path: Path) -> None:
    result = CliRunner().invoke(doctor, ["--orphans", "--state", str(tmp_path)])
    assert result.exit_code == 1
    assert "there is no database" in result.output


def test_an_export_that_no_attachment_explains_is_listed(up: Up, tmp_path: Path) -> None:
    store, volume = MemoryBackend(), str(uuid4())
    store.let_in.add((volume, "h1", ""))
    with closing(Database(up.database_url)) as db:
        found = find(Config(), db, tmp_path, {"memory": cast(Backend, store)})
    assert [(one.kind, one.place, one.id) for one in found] == [("export of a volume", "memory", volume)]


def test_a_record_whose_owner_is_gone_is_listed(up: Up) -> None:
    with closing(Database(up.database_url)) as db:
        before = _told(db)
        rows = _without_owners()
        with suppress(_Undone), db.write() as conn:
            conn.exec_driver_sql("PRAGMA defer_foreign_keys = ON")
            for table, row in rows:
                conn.execute(sa.insert(metadata.tables[table]).values(row))
            found = set(orphans.unowned(conn))
            raise _Undone
        assert before == set()
        assert _told(db) == set()
    of = {table: row for table, row in rows if table != "servers"}
    assert found == {
        ("record of an attachment", of["volume_attachments"]["id"]),
        ("record of a disk", of["block_device_mappings"]["id"]),
        ("record of a snapshot", of["volume_snapshots"]["id"]),
        ("record of a transfer", of["volume_transfers"]["id"]),
        ("claim", of["claims"]["server_id"]),
        ("port", of["ports"]["id"]),
    }


def test_what_a_server_left_on_a_host_is_not_explained_by_it(up: Up) -> None:
    """It was shelved, and has no host; one that is built has none yet."""
    rows = {state: _server(vm_state=state) for state in ("shelved_offloaded", "building", "error")}
    rows["elsewhere"], rows["here"] = _server(host="h2"), _server(host="h1")
    ids = {row["id"]: state for state, row in rows.items()}
    with closing(Database(up.database_url)) as db, suppress(_Undone), db.write() as conn:
        for row in rows.values():
            conn.execute(sa.insert(metadata.tables["servers"]).values(row))
        assert {ids[one] for one in orphans.known_servers(conn, "h1", list(ids))} == {"building", "here"}
        raise _Undone


def _server(**values: Any) -> dict[str, Any]:
    return _filled("servers", {"deleted_at": None, **values})


class _Undone(Exception):
    """What was written is not to stay."""


def _told(db: Database) -> set[tuple[str, str]]:
    with db.read() as conn:
        return set(orphans.unowned(conn))


def _without_owners() -> list[tuple[str, dict[str, Any]]]:
    """One row of each kind, and a server that was deleted."""
    server, nothing = str(uuid4()), str(uuid4())
    rows: dict[str, dict[str, Any]] = {
        "servers": {"id": server, "deleted_at": 1.0},
        "volume_attachments": {"volume_id": nothing},
        "block_device_mappings": {"server_id": server},
        "volume_snapshots": {"volume_id": nothing},
        "volume_transfers": {"volume_id": nothing, "accepted": False},
        "claims": {"server_id": server},
        "ports": {"device_id": server, "device_owner": "compute:nova"},
    }
    return [(table, _filled(table, row)) for table, row in rows.items()]


def _filled(table: str, row: dict[str, Any]) -> dict[str, Any]:
    """With something in every column that wants it."""
    made = dict(row)
    for column in metadata.tables[table].columns:
        if column.name not in made and not column.nullable and column.server_default is None:
            kind = column.type.python_type if not isinstance(column.type, Json) else dict
            made[column.name] = str(uuid4())[:8] if kind is str else kind()
            if column.name == "id":
                made[column.name] = str(uuid4())
    return made
