"""``kilonova doctor --orphans``: what nobody owns is listed, and nothing else is; nothing is removed."""

from __future__ import annotations

import json
from pathlib import Path
from uuid import uuid4

import pytest
from click.testing import CliRunner, Result
from tests.running import Up, until

from kilonova.cli.doctor import doctor


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
    ids = {kind: str(uuid4()) for kind in ("volume", "half", "snapshot", "image", "upload", "server")}
    (owned,) = (up.state / "volumes").glob("volume-*")
    host = next((up.state / "hosts").iterdir())
    made = [
        up.state / "volumes" / f"volume-{ids['volume']}",
        up.state / "volumes" / f"volume-{ids['half']}.part",
        owned.with_name(f"{owned.name}.snapshot-{ids['snapshot']}"),
        up.state / "images" / ids["image"],
        up.state / "images" / f"{ids['upload']}.0123.part",
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
