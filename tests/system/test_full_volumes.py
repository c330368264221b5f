"""Disks that get full under volumes and images: each says so, nothing of it is left, nothing else is lost."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.orphans import orphans
from tests.running import Up, until

pytestmark = pytest.mark.system

MIB = 1 << 20
ROOMY, FULL_OF_VOLUMES, FULL_OF_IMAGES = 2048, 20, 30
"""MiB of a small disk: room for a volume of 1 GiB; none for 16 MiB beside 8; none for them beside 24."""
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
        return {path.name for path in self.folder.rglob("*") if path.is_file()}

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

    def ends(self, of: str) -> Any:
        """What it shows when nothing is done to it any more."""

        def shown() -> Any:
            found = self.up.ask("GET", f"{VOLUMES}/{of}")[1]["volume"]
            return None if found["status"] in ("creating", "uploading", "retyping") else found

        return until(shown, 60, f"volume {of} to end")

    def act(self, volume: str, said: Any) -> None:
        status, answer = self.up.ask("POST", f"{VOLUMES}/{volume}/action", said)
        assert status in (200, 202), answer

    def said(self, of: str) -> str:
        """The project's last message about it."""
        headers = {"OpenStack-API-Version": "volume 3.70"}
        found = self.up.ask("GET", f"/volume/v3/messages?resource_uuid={of}", headers=headers)[1]["messages"]
        return str(found[0]["user_message"]) if found else ""

    def delete(self, of: str) -> None:
        assert self.up.ask("DELETE", f"{VOLUMES}/{of}")[0] == 202


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


def test_volumes_and_images_on_disks_that_get_full(world: World) -> None:
    """Everything that writes fails there, for that reason and without a trace; with room again it goes on."""
    up = world.up
    small, large = up.image(os.urandom(8 * MIB)), up.image(os.urandom(16 * MIB))
    there = world.post(imageRef=small, volume_type="small")
    comes = world.post(imageRef=large, volume_type="large")
    assert {world.ends(one)["status"] for one in (there, comes)} == {"available"}
    before = {disk: disk.files() for disk in (world.images, world.volumes)}
    holds = digest(world.volumes.folder / f"volume-{there}")

    world.volumes.has(FULL_OF_VOLUMES)
    world.images.has(FULL_OF_IMAGES)
    failed = world.post(imageRef=large, volume_type="small")
    assert world.ends(failed)["status"] == "error"
    assert "no space left" in world.said(failed)
    server = built_of(up, large)
    assert server["status"] == "ERROR"
    assert "prepare_block_devices failed: " in server["fault"]["message"]
    assert "no space left" in server["fault"]["message"]
    move(world, comes)
    assert world.ends(comes)["migration_status"] == "error"
    assert "No space left" in world.said(comes)
    upload(world, comes)
    assert world.ends(comes)["status"] == "available"
    assert "media is full" in world.said(comes)

    until(lambda: up.unexplained() == [], 60, "all to be at its end")
    assert {disk: disk.files() for disk in before} == before
    assert orphans(up) == "0 found\n"
    assert digest(world.volumes.folder / f"volume-{there}") == holds

    for disk in before:
        disk.has(ROOMY)
    move(world, comes)
    shown = world.ends(comes)
    assert (shown["migration_status"], shown["volume_type"]) == ("success", "small")
    assert up.ask("DELETE", f"/compute/v2.1/servers/{server['id']}")[0] == 204
    for one in (failed, there, comes):
        world.delete(one)
    until(lambda: up.ask("GET", VOLUMES)[1]["volumes"] == [], 60, "what the build began to go")
    assert world.volumes.files() == set()
    assert world.images.files() == before[world.images]
    assert orphans(up) == "0 found\n"


def built_of(up: Up, image: str) -> Any:
    """A server that boots from a new volume on the small disk, when nothing is done to it any more."""
    root = {"uuid": image, "source_type": "image", "destination_type": "volume", "volume_size": 1}
    root |= {"boot_index": 0, "volume_type": "small", "delete_on_termination": True}
    status, made = up.post_server("", block_device_mapping_v2=[root])
    assert status == 202, made
    return up.settled(made["server"]["id"])


def move(world: World, volume: str) -> None:
    world.act(volume, {"os-retype": {"new_type": "small", "migration_policy": "on-demand"}})


def upload(world: World, volume: str) -> None:
    world.act(volume, {"os-volume_upload_image": {"image_name": "copy"}})


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
