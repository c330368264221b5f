"""Images of servers whose disks are in the same Ceph: the image service reads what a host has taken."""

from __future__ import annotations

import hashlib
import os
import subprocess
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from falcon.testing import TestClient
from tests.ceph import USER, Ceph
from tests.functional.image.conftest import Caller, authenticate

from kilonova.api import image
from kilonova.api.http import application
from kilonova.config import Config
from kilonova.domain.servers import ImageLocation
from kilonova.image import locations
from kilonova.image.file import FileStore
from kilonova.image.rbd import RbdStore
from kilonova.image.service import Images
from kilonova.rbd import Cluster, pool
from kilonova.store.database import Database

MIB = 1 << 20
CONTENT = os.urandom(MIB) + bytes(9 * MIB) + b"end" + bytes(2 * MIB - 3)


class World:
    """An image service in the pool ``images`` as ``user``; a host's disk in ``vms``, with what was taken."""

    def __init__(self, ceph: Ceph, db: Database, user: str = USER) -> None:
        self.hosts, self.cluster = Cluster(ceph.conf, USER), Cluster(ceph.conf, user)
        self.vms, self.images = self.hosts.pool("vms"), self.hosts.pool("images")
        self.server = str(uuid.uuid4())
        self.disk = f"{self.server}_disk"
        self.service = Images(db, RbdStore(self.cluster.pool("images")), Config())
        client = TestClient(application([image.service(self.service)], authenticate))
        self.alice, self.agent = Caller(client, "alice"), Caller(client, "agent")

    def take(self, content: bytes = CONTENT) -> None:
        """The disk holds that, and so does its snapshot."""
        self.vms.remove(self.disk)
        self.vms.create(self.disk, len(content))
        with self.vms.writing(self.disk) as writer:
            for start in range(0, len(content), pool.BLOCK):
                writer.write(content[start : start + pool.BLOCK])
        self.vms.snapshot(self.disk, "taken")

    def queued(self, **more: Any) -> str:
        body = {"disk_format": "qcow2", "image_type": "snapshot", "visibility": "private", **more}
        body = {"instance_uuid": self.server} | body
        return str(self.alice.create(**body)["id"])

    def give(self, image_id: str, caller: Caller | None = None, **other: str) -> Any:
        parts = {"fsid": self.hosts.fsid, "pool": "vms", "image": self.disk, "snapshot": "taken", **other}
        body = {"url": locations.to_url(ImageLocation(**parts)), "validation_data": {}}
        return (caller or self.agent)("POST", f"/v2/images/{image_id}/locations", json=body)

    def is_without_bytes(self, image_id: str) -> bool:
        queued = self.alice.show(image_id)["status"] == "queued"
        return queued and image_id not in self.images.names() and self.images.trashed() == set()

    def close(self) -> None:
        for one in (self.vms, self.images):
            for name in one.names():
                one.remove(name)
            assert one.trashed() == set()
        self.hosts.close()
        self.cluster.close()


MakeWorld = Callable[..., World]


@pytest.fixture
def make_world(ceph: Ceph, new_database: Callable[..., Database]) -> Iterator[MakeWorld]:
    made: list[World] = []

    def make(**options: str) -> World:
        made.append(World(ceph, new_database(lambda _db: None), **options))
        made[-1].take()
        return made[-1]

    yield make
    for world in made:
        world.close()


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    return make_world()


def test_the_image_holds_what_was_taken_and_needs_nothing_of_the_server(world: World) -> None:
    image_id = world.queued()
    assert world.give(image_id).status_code == 202
    shown = world.alice.show(image_id)
    expected = {
        "status": "active",
        "disk_format": "raw",
        "size": len(CONTENT),
        "virtual_size": len(CONTENT),
        "checksum": hashlib.md5(CONTENT, usedforsecurity=False).hexdigest(),
        "os_hash_value": hashlib.sha512(CONTENT).hexdigest(),
    }
    assert expected.items() <= shown.items()
    world.vms.remove(world.disk)
    assert (world.vms.names(), world.vms.trashed()) == (set(), set())
    assert world.alice("GET", f"/v2/images/{image_id}/file").content == CONTENT
    assert world.images.marked(image_id)
    assert world.images.snapshots(image_id) == {"snap"}
    assert world.give(image_id).status_code == 409


def test_it_is_hosts_alone_that_say_which_disk(world: World) -> None:
    """Who may choose could have the disk of any project."""
    image_id = world.queued()
    assert world.give(image_id, world.alice).status_code == 403
    assert world.give(world.queued(image_type="mine")).status_code == 403
    assert world.give(str(uuid.uuid4())).status_code == 404
    assert world.is_without_bytes(image_id)


@pytest.mark.parametrize("of", ["another server", "volume", "image", "all"])
def test_a_host_that_lies_gets_no_disk_but_its_images_servers(world: World, of: str) -> None:
    """A host without a right in Ceph may say a name that it guesses, or have a user give one to an image."""
    other = str(uuid.uuid4())
    name, server = {
        "another server": (f"{other}_disk", world.server),
        "volume": (f"volume-{other}", f"volume-{other}"),
        "image": (other, other),
        "all": ("_disk", ""),
    }[of]
    world.vms.create(name, MIB)
    world.vms.snapshot(name, "taken")
    image_id = world.queued(instance_uuid=server)
    assert world.give(image_id, image=name).status_code == 403
    assert world.is_without_bytes(image_id)


@pytest.mark.parametrize(
    "other",
    [{"fsid": str(uuid.uuid4())}, {"snapshot": "none"}, {"snapshot": "a/b"}, {"snapshot": "a\0b"}],
)
def test_what_cannot_be_read_is_refused_so_that_the_host_sends_it(
    world: World, other: dict[str, str]
) -> None:
    image_id = world.queued()
    assert world.give(image_id, **other).status_code == 400
    assert world.is_without_bytes(image_id)
    assert world.give(image_id).status_code == 202


def test_a_disk_that_is_not_there_is_refused(world: World) -> None:
    image_id = world.queued()
    world.vms.remove(world.disk)
    assert world.give(image_id).status_code == 400
    assert world.is_without_bytes(image_id)


def test_a_store_without_the_right_to_read_disks_says_so(ceph: Ceph, make_world: MakeWorld) -> None:
    ceph.user("narrow", "images")
    narrow = make_world(user="narrow")
    image_id = narrow.queued()
    answer = narrow.give(image_id)
    assert (answer.status_code, answer.json["message"]) == (400, "client.narrow may not read pool vms")
    assert narrow.is_without_bytes(image_id)


def test_the_right_to_read_is_all_that_it_needs(ceph: Ceph, make_world: MakeWorld) -> None:
    ceph.user("reader", "images", "vms")
    reader = make_world(user="reader")
    image_id = reader.queued()
    assert reader.give(image_id).status_code == 202
    assert reader.alice("GET", f"/v2/images/{image_id}/file").content == CONTENT


def test_a_store_of_files_reads_no_disk(world: World, tmp_path: Path) -> None:
    world.service.stores.default = FileStore(tmp_path)
    image_id = world.queued()
    answer = world.give(image_id)
    assert (answer.status_code, answer.json["message"]) == (400, "images are kept in files")
    assert world.alice.show(image_id)["status"] == "queued"


def test_a_disk_that_looks_like_another_format_becomes_no_image(world: World, tmp_path: Path) -> None:
    """A guest may write to its disk what makes a careless tool open a file of the host."""
    path = tmp_path / "inner"
    command = [
        "qemu-img",
        "create",
        "-q",
        "-f",
        "qcow2",
        "-o",
        f"data_file={tmp_path / 'd'},data_file_raw=on",
    ]
    subprocess.run([*command, str(path), "1M"], check=True)
    inner = path.read_bytes()
    world.take(inner + bytes(4 * MIB - len(inner)))
    image_id = world.queued()
    assert world.give(image_id).status_code == 415
    assert world.is_without_bytes(image_id)


def test_what_goes_away_while_it_is_read_becomes_no_image(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that was killed takes its snapshot anew: what is read of the first one then is zeros."""
    image_id = world.queued()
    put = RbdStore.put

    def and_meanwhile(*args: Any) -> int:
        size = put(*args)
        world.vms.remove_snapshot(world.disk, "taken")
        world.vms.snapshot(world.disk, "taken")
        return size

    with monkeypatch.context() as patch:
        patch.setattr(RbdStore, "put", and_meanwhile)
        assert world.give(image_id).status_code == 409
    assert world.is_without_bytes(image_id)
    assert world.give(image_id).status_code == 202
    assert world.alice("GET", f"/v2/images/{image_id}/file").content == CONTENT


def test_what_is_deleted_is_not_read_to_its_end(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The delete of its server waits for the host, and that for us."""
    world.take(bytes(40 * MIB))
    image_id, put, blocks = world.queued(), RbdStore.put, []

    def slowly(store: RbdStore, image_id: str, chunks: Iterable[bytes], max_size: int) -> int:
        def seen() -> Iterator[bytes]:
            for block in chunks:
                if not blocks:
                    assert world.alice("DELETE", f"/v2/images/{image_id}").status_code == 204
                blocks.append(len(block))
                yield block

        return put(store, image_id, seen(), max_size)

    monkeypatch.setattr(RbdStore, "put", slowly)
    assert world.give(image_id).status_code == 404
    assert sum(blocks) < 17 * MIB
    assert world.alice("GET", f"/v2/images/{image_id}").status_code == 404
    assert image_id not in world.images.names()


def test_only_so_many_are_read_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each keeps a thread of the API: the host comes again."""
    put, answers = RbdStore.put, []
    images = [world.queued() for _ in range(3)]

    def and_meanwhile(*args: Any) -> int:
        if images:
            answers.append(world.give(images.pop()).status_code)
        return put(*args)

    monkeypatch.setattr(RbdStore, "put", and_meanwhile)
    first = images.pop()
    assert world.give(first).status_code == 202
    assert answers == [503, 202]


@pytest.mark.parametrize(
    "url", ["", "file:///etc/passwd", "rbd://a/b/c", "rbd://a/b/c/d/e", "rbd://a//c/d", "rbd:/a"]
)
def test_other_places_are_none(world: World, url: str) -> None:
    path = f"/v2/images/{world.queued()}/locations"
    assert world.agent("POST", path, json={"url": url}).status_code == 400


def test_a_place_as_a_url_and_back() -> None:
    place = ImageLocation(fsid="f", pool="a/b", image="c d%", snapshot="é@")
    assert locations.from_url(locations.to_url(place)) == place
