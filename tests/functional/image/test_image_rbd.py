"""Images in Ceph: raw, to be cloned; nothing bad gets in, and nothing is left over."""

from __future__ import annotations

import hashlib
import os
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from falcon.testing import TestClient
from tests.ceph import USER, Ceph
from tests.functional.image.conftest import Caller, authenticate

from kilonova.api import image
from kilonova.api.http import application
from kilonova.config import Config
from kilonova.config import Image as ImageConfig
from kilonova.domain.context import RequestContext
from kilonova.image.base import Stores
from kilonova.image.file import FileStore
from kilonova.image.raw import Converter
from kilonova.image.rbd import RbdStore
from kilonova.image.service import Images
from kilonova.image.writers import Writers
from kilonova.rbd import Cluster, Pool, Snapshot
from kilonova.store.database import Database

MIB = 1 << 20
AGENT = RequestContext(request_id="", user_id="u", project_id="p", roles=frozenset({"service"}))


@pytest.fixture
def pool(ceph: Ceph) -> Iterator[Pool]:
    cluster = Cluster(ceph.conf, USER)
    pool = cluster.pool("images")
    yield pool
    for name in pool.names():
        pool.remove(name)
    cluster.close()


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    return tmp_path / "staging"


@pytest.fixture
def files(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "images")


@pytest.fixture
def service(new_database: Callable[..., Database], pool: Pool, staging: Path, files: FileStore) -> Images:
    options = ImageConfig(backend="rbd", show_image_direct_url=True, max_converted_size=1 << 30)
    stores = Stores(RbdStore(pool), files)
    converter = Converter(staging, options.max_converted_size)
    writers = Writers(staging.with_name("writers"))
    return Images(new_database(lambda _db: None), stores, Config(image=options), converter, writers)


@pytest.fixture
def alice(service: Images) -> Caller:
    return Caller(TestClient(application([image.service(service)], authenticate)), "alice")


def qcow2(path: Path, size: int, *options: str) -> bytes:
    command = ["qemu-img", "create", "-q", "-f", "qcow2", *options, str(path), str(size)]
    subprocess.run(command, check=True)
    return path.read_bytes()


def disk(tmp_path: Path, content: bytes) -> bytes:
    """A qcow2 with that content."""
    (tmp_path / "raw").write_bytes(content)
    command = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(tmp_path / "raw"), str(tmp_path / "q")]
    subprocess.run(command, check=True)
    return (tmp_path / "q").read_bytes()


def test_a_qcow2_becomes_a_disk_that_can_be_cloned(
    alice: Caller, service: Images, pool: Pool, staging: Path, tmp_path: Path
) -> None:
    content = os.urandom(3 * MIB) + bytes(8 * MIB) + b"end" + bytes(MIB - 3)
    made = alice.create_active(disk(tmp_path, content), disk_format="qcow2")
    assert made["disk_format"] == "raw"
    assert made["size"] == made["virtual_size"] == len(content)
    assert made["os_hash_value"] == hashlib.sha512(content).hexdigest()
    assert made["stores"] == "rbd"
    assert made["direct_url"] == f"rbd://{pool.cluster.fsid}/images/{made['id']}/snap"
    assert list(staging.iterdir()) == []
    path = f"/v2/images/{made['id']}/file"
    assert alice("GET", path).content == content
    part = alice("GET", path, headers={"Range": f"bytes={3 * MIB - 5}-{3 * MIB + 4}"})
    assert (part.status_code, part.content) == (206, content[3 * MIB - 5 : 3 * MIB + 5])

    ref = service.ref(AGENT, made["id"])
    assert ref.location is not None
    assert (ref.location.fsid, ref.disk_format) == (pool.cluster.fsid, "raw")
    vms = pool.cluster.pool("vms")
    clone = f"{uuid.uuid4()}_disk"
    vms.clone(Snapshot(ref.location.pool, ref.location.image, ref.location.snapshot), clone)
    assert alice("DELETE", f"/v2/images/{made['id']}").status_code == 204
    assert alice("GET", f"/v2/images/{made['id']}").status_code == 404
    assert made["id"] not in pool.names()
    with vms.open(clone) as file:
        assert file.read() == content, "a clone outlives its image"
    vms.remove(clone)
    assert pool.trashed() == set()


def test_raw_streams_in_and_other_formats_stay_what_they_are(
    alice: Caller, service: Images, pool: Pool, staging: Path
) -> None:
    content = os.urandom(5 * MIB + 17)
    made = alice.create_active(content)
    assert (made["disk_format"], made["size"]) == ("raw", len(content))
    assert pool.size(made["id"]) == len(content)
    assert service.ref(AGENT, made["id"]).location is not None
    kernel = alice.create_active(b"kernel", disk_format="aki", container_format="aki")
    assert "direct_url" not in kernel
    assert not staging.exists() or list(staging.iterdir()) == []
    for one in (made, kernel):
        alice("DELETE", f"/v2/images/{one['id']}")
        assert one["id"] not in pool.names()


def test_images_of_before_are_found_in_files(alice: Caller, service: Images, files: FileStore) -> None:
    later, service.stores = service.stores, Stores(files)
    old = alice.create_active(b"of old")
    service.stores = later
    assert alice("GET", f"/v2/images/{old['id']}/file").content == b"of old"
    assert alice.show(old["id"])["stores"] == "file"
    assert service.ref(AGENT, old["id"]).location is None
    assert alice("GET", "/v2/info/stores").json["stores"] == [
        {"id": "rbd", "default": "true"},
        {"id": "file"},
    ]
    assert alice("DELETE", f"/v2/images/{old['id']}").status_code == 204
    assert not files.path(old["id"]).exists()


def _backing(tmp_path: Path) -> bytes:
    qcow2(tmp_path / "base", MIB)
    return qcow2(tmp_path / "top", MIB, "-F", "qcow2", "-b", str(tmp_path / "base"))


def _data_file(tmp_path: Path) -> bytes:
    return qcow2(tmp_path / "top", MIB, "-o", f"data_file={tmp_path / 'data'},data_file_raw=on")


def _absurd(tmp_path: Path) -> bytes:
    data = bytearray(qcow2(tmp_path / "top", MIB))
    data[24:32] = (1 << 60).to_bytes(8, "big")
    return bytes(data)


def _bomb(tmp_path: Path) -> bytes:
    """A few KiB that would become 2 GiB, of which the converter may make one."""
    return qcow2(tmp_path / "bomb", 2 << 30)


def _damaged(tmp_path: Path) -> bytes:
    """What names no other file, and yet is no disk: its first table has no room for its clusters."""
    data = bytearray(disk(tmp_path, os.urandom(MIB)))
    data[36:40] = bytes(4)
    return bytes(data)


def _nested(tmp_path: Path) -> bytes:
    """A disk whose first bytes are the header of a qcow2 that reads a file of the host."""
    inner = qcow2(tmp_path / "inner", MIB)
    return disk(tmp_path, inner + bytes(-len(inner) % MIB))


def _vmdk(_tmp_path: Path) -> bytes:
    text = b'# Disk DescriptorFile\nversion=1\ncreateType="monolithicFlat"\nRW 2048 FLAT "/etc/shadow" 0\n'
    return text + bytes(MIB - len(text))


@pytest.mark.parametrize(
    ("make", "disk_format", "status"),
    [
        (_backing, "qcow2", 415),
        (_data_file, "qcow2", 415),
        (_absurd, "qcow2", 415),
        (_bomb, "qcow2", 413),
        (_damaged, "qcow2", 415),
        (_nested, "qcow2", 415),
        (_nested, "raw", 415),
        (_vmdk, "vmdk", 415),
    ],
)
def test_a_malicious_file_is_refused_and_nothing_is_left(
    alice: Caller,
    pool: Pool,
    staging: Path,
    files: FileStore,
    tmp_path: Path,
    make: Callable[[Path], bytes],
    disk_format: str,
    status: int,
) -> None:
    made = alice.create(disk_format=disk_format)
    answer = alice.upload(made["id"], make(tmp_path))
    assert answer.status_code == status, answer.text
    assert alice.show(made["id"])["status"] == "queued"
    assert alice("GET", f"/v2/images/{made['id']}/file").status_code == 204
    assert made["id"] not in pool.names()
    assert not staging.exists() or list(staging.iterdir()) == []
    assert not files.path(made["id"]).exists()


def test_what_a_kill_left_of_an_upload_goes_at_the_next_start(
    alice: Caller, service: Images, pool: Pool, staging: Path
) -> None:
    made = alice.create(disk_format="qcow2")
    killed = Writers(staging.with_name("writers"))
    with killed.writes() as token:
        service._start_saving(authenticate("alice", "req-1"), made["id"], token)
        assert service.resume()
        assert alice.show(made["id"])["status"] == "saving", "who writes it lives"
        killed.close()
    pool.create(made["id"], MIB)
    for name in (made["id"], f"{made['id']}.raw"):
        (staging / name).write_bytes(b"half")
    assert service.recover()
    assert alice.show(made["id"])["status"] == "queued"
    assert made["id"] not in pool.names()
    assert list(staging.iterdir()) == []
