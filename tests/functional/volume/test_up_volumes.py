"""Volumes of `kilonova up`, by the client that everybody has, and over kills."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.running import Up, until

SCRIPT = """\
volume type create --property volume_backend_name=file files
volume create --size 1 --type files --property a=b one
volume set --size 2 --description text one
volume snapshot create --volume one snap
volume create --snapshot snap two
volume create --source one --size 2 three
volume list --long
volume snapshot list
volume transfer request create --name gift two
volume transfer request list
volume transfer request delete gift
volume service list
volume attachment list
quota show --volume
volume delete three
volume type list --long
"""


def test_the_unmodified_client(tmp_path: Path) -> None:
    """Commands of one session of the client: the volumes are blank, and there when the next command comes or
    soon after, so each is tried until it is taken."""
    up = Up(tmp_path / "state").start()
    try:
        client = Path(sys.executable).parent / "openstack"
        environment = {
            "OS_CLIENT_CONFIG_FILE": str(tmp_path / "state/clouds.yaml"),
            "OS_CLOUD": "kilonova",
            "PATH": "/usr/bin:/bin",
            "HOME": str(tmp_path),
        }
        waits = SCRIPT.replace("volume snapshot create", "volume list\nvolume snapshot create")
        done = subprocess.run(
            [str(client)],
            input=waits,
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert "Traceback" not in done.stderr
        shown = up.ask("GET", "/volume/v3/volumes/detail")[1]["volumes"]
        sizes = {volume["name"]: (volume["size"], volume["volume_type"]) for volume in shown}
        assert sizes["one"] == (2, "files"), done.stdout + done.stderr
        assert sizes["two"][1] == "files"
        assert "gift" in done.stdout
        assert "cinder-volume" in done.stdout
        assert "gigabytes" in done.stdout
    finally:
        assert up.stop() == 0


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
