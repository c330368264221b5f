"""Disks that get full under volumes and images: each says so, nothing of it is left, nothing else is lost."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.running import Up, until

from kilonova.cli.doctor import doctor

pytestmark = pytest.mark.system

MIB = 1 << 20
ROOMY, FULL = 2048, 20
"""MiB of a small disk: so many that a volume is given to it, and so many that 16 MiB have no room beside 8."""
CONFIG = """
[compute]
report_interval = 60
service_down_time = 600
[image]
filesystem_store_datadir = "{0}/images"
reserved_disk_mb = 0
[volume]
name = "box"
[volume.backends.small]
driver = "file"
path = "{0}/volumes"
[volume.backends.large]
driver = "file"
"""
VOLUMES, TYPES = "/volume/v3/volumes", "/volume/v3/types"


class Small:
    """A disk in memory, whose size changes while it is used."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={ROOMY}m", "kilonova-test", folder], check=True)

    def has(self, mib: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={mib}m", self.folder], check=True)

    def files(self) -> set[str]:
        return {path.name for path in self.folder.iterdir() if path.is_file()}

    def close(self) -> None:
        subprocess.run(["umount", "-l", self.folder], check=True)


class World:
    """A Kilonova whose images and whose volumes of the type ``small`` are on small disks."""

    def __init__(self, up: Up, images: Small, volumes: Small) -> None:
        self.up, self.images, self.volumes = up, images, volumes

    def post(self, **said: Any) -> str:
        status, made = self.up.ask("POST", VOLUMES, {"volume": {"size": 1, **said}})
        assert status == 202, made
        return str(made["volume"]["id"])

    def ends(self, of: str, *, kind: str = "volume") -> Any:
        """What it shows when nothing is done to it any more."""

        def shown() -> Any:
            found = self.up.ask("GET", f"/volume/v3/{kind}s/{of}")[1][kind]
            return None if found["status"] in ("creating", "uploading", "maintenance") else found

        return until(shown, 60, f"{kind} {of} to end")

    def act(self, volume: str, **said: Any) -> None:
        status, answer = self.up.ask("POST", f"{VOLUMES}/{volume}/action", said)
        assert status == 202 or status == 200, answer

    def said(self, of: str) -> str:
        """The project's last message about it."""
        headers = {"OpenStack-API-Version": "volume 3.70"}
        found = self.up.ask("GET", f"/volume/v3/messages?resource_uuid={of}", headers=headers)[1]["messages"]
        return str(found[0]["user_message"]) if found else ""

    def delete(self, of: str, *, kind: str = "volume") -> None:
        path = f"/volume/v3/{kind}s/{of}"
        assert self.up.ask("DELETE", path)[0] == 202
        until(lambda: self.up.ask("GET", path)[0] == 404, 60, f"{kind} {of} to go")

    def orphans(self) -> str:
        state = str(self.up.state)
        return CliRunner().invoke(
            doctor, ["--orphans", "--state", state, "--config", f"{state}/test.toml"]
        ).output


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with ExitStack() as closing:
        disks = [Small(tmp_path / "small" / name) for name in ("images", "volumes")]
        for disk in disks:
            closing.callback(disk.close)
        up = Up(tmp_path / "state").start(CONFIG.format(tmp_path / "small"))
        closing.callback(up.kill)
        for name in ("small", "large"):
            asked = {"name": name, "extra_specs": {"volume_backend_name": name}}
            assert up.ask("POST", TYPES, {"volume_type": asked})[0] == 200
        yield World(up, *disks)


def test_volumes_on_a_disk_that_gets_full(world: World) -> None:
    up, data = world.up, os.urandom(8 * MIB)
    small, large = up.image(data), up.image(os.urandom(16 * MIB))
    there = world.post(imageRef=small, volume_type="small")
    comes = world.post(imageRef=large, volume_type="large")
    assert {world.ends(one)["status"] for one in (there, comes)} == {"available"}
    before = world.volumes.files()

    world.volumes.has(FULL)
    for source in ({"imageRef": large}, {"size": 1, "source_volid": comes}):
        made = world.post(volume_type="small", **source)
        shown = world.ends(made)
