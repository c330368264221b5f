"""Images that are not what they were when they came in: of a store that others write to, or of a service that
does not look at them. Every way to a disk looks itself, and nothing of the host gets out.
"""

from __future__ import annotations

import hashlib
import json
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.host_oracle import HostOracle, real_machine
from tests.running import Up, until
from tests.system.cloud import SERVERS

pytestmark = pytest.mark.system

VOLUMES = "/volume/v3/volumes"
SECRET = b"what only the host may read " * 40
SOON = 120.0
NOT_SAFE = "is not safe to use"


@pytest.fixture(scope="module")
def machine() -> Iterator[tuple[Up, HostOracle]]:
    with real_machine() as (up, oracle):
        up.start('[libvirt]\nvirt_type = "qemu"\n')
        yield up, oracle


def _qcow2(folder: Path, *options: str, size: str = "1M") -> bytes:
    path = folder / "evil.qcow2"
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", *options, str(path), size], check=True, timeout=60
    )
    return path.read_bytes()


def _backing(folder: Path) -> bytes:
    secret = folder / "secret"
    secret.write_bytes(SECRET)
    return _qcow2(folder, "-b", str(secret), "-F", "raw")


def _data_file(folder: Path) -> bytes:
    return _qcow2(folder, "-o", f"data_file={folder / 'secret'},data_file_raw=on")


def _absurd(folder: Path) -> bytes:
    made = bytearray(_qcow2(folder))
    made[24:32] = struct.pack(">Q", 1 << 62)
    return bytes(made)


def _descriptor(folder: Path) -> bytes:
    extent = f'RW 2048 FLAT "{folder / "secret"}" 0'
    text = f'# Disk DescriptorFile\nversion=1\nCID=1\ncreateType="monolithicFlat"\n{extent}\n'
    return text.encode().ljust(1 << 16, b"\0")


@pytest.mark.parametrize(
    ("disk_format", "make"),
    [
        ("qcow2", _backing),
        ("qcow2", _data_file),
        ("qcow2", _absurd),
        ("raw", _backing),
        ("raw", _descriptor),
    ],
)
def test_no_way_in_believes_the_store(
    machine: tuple[Up, HostOracle], tmp_path: Path, disk_format: str, make: Callable[[Path], bytes]
) -> None:
    up, oracle = machine
    server = booted(up, up.image(bytes(1 << 20)))
    image = spoilt(
        up, disk_format, _qcow2(tmp_path) if disk_format == "qcow2" else bytes(1 << 20), make(tmp_path)
    )

    status, made = up.post_server(image)
    assert status == 202, made
    other = made["server"]["id"]
    assert up.settled(other)["status"] == "ERROR"
    assert NOT_SAFE in json.dumps(up.server(other)["fault"])

    status, made = up.ask("POST", VOLUMES, {"volume": {"size": 1, "imageRef": image}})
    assert status == 202, made
    volume = made["volume"]["id"]
    until(lambda: shown(up, volume)["status"] == "error", SOON, "the volume to be refused")

    disk = {"source_type": "image", "uuid": image, "destination_type": "volume", "volume_size": 1}
    status, made = up.post_server("", block_device_mapping_v2=[disk | {"boot_index": 0}])
    assert status == 202, made
    third = made["server"]["id"]
    assert up.settled(third)["status"] == "ERROR"

    act(up, server, rescue={"rescue_image_ref": image})
    assert failed(up, server, "rescue")
    assert up.settled(server)["status"] in ("ACTIVE", "ERROR"), up.server(server)
    act(up, server, rebuild={"imageRef": image})
    assert failed(up, server, "rebuild")

    kept = [path for path in up.state.rglob("*") if path.is_file() and path.parent.name != "images"]
    assert not [path for path in kept if SECRET[:64] in path.read_bytes()]
    for one in (server, other, third):
        assert up.ask("DELETE", f"{SERVERS}/{one}")[0] == 204
        until(lambda one=one: up.server(one) is None, SOON, f"{one} to go")
    for one in up.ask("GET", VOLUMES)[1]["volumes"]:
        assert up.ask("DELETE", f"{VOLUMES}/{one['id']}")[0] == 202
    until(lambda: not up.ask("GET", VOLUMES)[1]["volumes"], SOON, "the volumes to go")
    assert oracle.left() == []


def spoilt(up: Up, disk_format: str, honest: bytes, evil: bytes) -> str:
    """An image whose bytes, and what the records say of them, are others than those that were looked at."""
    image = up.image(honest, disk_format)
    path = up.state / "images" / image
    path.chmod(0o600)
    path.write_bytes(evil)
    digest = hashlib.sha512(evil).hexdigest()
    with closing(up.database()) as db, db:
        changed = db.execute(
            "UPDATE images SET size = ?, virtual_size = NULL, os_hash_value = ?, tree_hash = NULL"
            " WHERE id = ?",
            (len(evil), digest, image),
        )
        assert changed.rowcount == 1
    return image


def booted(up: Up, image: str) -> str:
    status, made = up.post_server(image)
    assert status == 202, made
    server = str(made["server"]["id"])
    assert up.settled(server)["status"] == "ACTIVE", up.server(server)
    return server


def act(up: Up, server: str, **action: Any) -> None:
    status, answer = up.ask("POST", f"{SERVERS}/{server}/action", action)
    assert status in (200, 202), answer


def failed(up: Up, server: str, action: str) -> bool:
    """The newest of that kind ended so."""

    def ended() -> Any:
        if up.server(server)["OS-EXT-STS:task_state"] is not None:
            return None
        actions = up.ask("GET", f"{SERVERS}/{server}/os-instance-actions")[1]["instanceActions"]
        return next(one for one in actions if one["action"] == action)

    return until(ended, SOON, f"{action} to end")["message"] is not None


def shown(up: Up, volume: str) -> Any:
    return up.ask("GET", f"{VOLUMES}/{volume}")[1]["volume"]
