"""Volumes of `kilonova up`, by the client that everybody has, and over kills."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import openstack
from openstack.config import OpenStackConfig
from tests.running import Up, until

SESSIONS = (
    """\
volume type create --property volume_backend_name=file files
volume create --size 1 --type files --property a=b one
volume list --long
""",
    """\
volume set --name uno --description text --property c=d one
volume snapshot create --volume uno snap
volume create --source uno --size 2 two
volume service list
volume attachment list
quota show --volume
volume type list --long
""",
    """\
volume create --snapshot snap three
volume set --size 3 two
volume transfer request create --name gift uno
volume transfer request list
volume snapshot list
""",
)
WITH_A_SERVER = """\
server add volume {server} three
volume snapshot create --force --volume three live
volume attachment create --server {server} two
volume attachment list
volume message list
volume type set --private files
volume type set --public files
volume type show --encryption-type files
"""
"""What takes more than the oldest microversion, or is not what Cinder's own client sends."""


def test_the_unmodified_client(tmp_path: Path) -> None:
    """Sessions of the client, many commands each: what one has begun, the next one finds ended."""
    up = Up(tmp_path / "state").start()

    def volumes() -> dict[str, Any]:
        found = up.ask("GET", "/volume/v3/volumes/detail")[1]["volumes"]
        return {volume["name"]: volume for volume in found}

    def settled() -> bool:
        snapshots = up.ask("GET", "/volume/v3/snapshots")[1]["snapshots"]
        return not any(one["status"].endswith("ing") for one in [*volumes().values(), *snapshots])

    try:
        said = ""
        for session in SESSIONS:
            said += _client(tmp_path, session)
            until(settled, 60, "volumes that are there")
        _snapshot_by_the_sdk(tmp_path, volumes()["three"]["id"])
        until(settled, 60, "the snapshot of the SDK")
        server = up.post_server(up.image(b"\0" * 512))[1]["server"]["id"]
        up.settled(server)
        said += _client(tmp_path, WITH_A_SERVER.format(server=server))
        until(settled, 60, "the snapshot of a volume in use")
        assert volumes()["three"]["status"] == "in-use"
        _client(tmp_path, f"server remove volume {server} three\nvolume snapshot delete live sdk\n")
        until(settled, 60, "no snapshot")
        sizes = {name: (one["size"], one["status"]) for name, one in volumes().items()}
        waits = (1, "awaiting-transfer")
        assert sizes == {"uno": waits, "two": (3, "reserved"), "three": (1, "available")}, said
        assert volumes()["uno"]["metadata"] == {"a": "b", "c": "d"}
        assert {one["volume_type"] for one in volumes().values()} == {"files"}
        assert all(word in said for word in ("gift", "cinder-volume", "gigabytes", "snap"))
    finally:
        assert up.stop() == 0


def _snapshot_by_the_sdk(folder: Path, volume: str) -> None:
    """As Ansible does: the cloud layer says ``force`` every time, refused since 3.66 unless it is true."""
    config = OpenStackConfig(config_files=[str(folder / "state/clouds.yaml")], load_envvars=False)
    with openstack.connection.Connection(config=config.get_one("kilonova")) as cloud:
        cloud.create_volume_snapshot(volume, name="sdk", wait=False)


def _client(folder: Path, session: str) -> str:
    done = subprocess.run(
        [str(Path(sys.executable).parent / "openstack")],
        input=session,
        env={
            "OS_CLIENT_CONFIG_FILE": str(folder / "state/clouds.yaml"),
            "OS_CLOUD": "kilonova",
            "PATH": "/usr/bin:/bin",
            "HOME": str(folder),
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert not done.stderr.strip(), done.stderr
    return done.stdout


def test_a_kill_at_any_step_loses_and_leaves_nothing(tmp_path: Path) -> None:
    up = Up(tmp_path / "state").start('[faults]\nkill_at = "volume_create.make.after"\n')
    volume = up.ask("POST", "/volume/v3/volumes", {"volume": {"size": 1}})[1]["volume"]["id"]
    up.wait()
    up.start('[faults]\nkill_at = "volume_delete.delete.after"\n')
    path, files = f"/volume/v3/volumes/{volume}", tmp_path / "state/volumes"
    until(lambda: up.ask("GET", path)[1]["volume"]["status"] == "available", 60, "a volume")
    assert [file.name for file in files.iterdir()] == [f"volume-{volume}"]
    assert up.ask("DELETE", path)[0] == 202
    up.wait()
    up.start()
    try:
        until(lambda: up.ask("GET", path)[0] == 404, 60, "no volume")
        assert list(files.iterdir()) == []
    finally:
        assert up.stop() == 0
