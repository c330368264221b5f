"""Upload and download: hashes, ranges, limits, refusals, and what an upload that fails leaves behind."""

from __future__ import annotations

import hashlib
import subprocess
import threading
from pathlib import Path

import pytest

from kilonova.config import Config
from kilonova.config import Image as ImageConfig
from kilonova.domain.context import RequestContext
from kilonova.domain.errors import BadRequest, Conflict, NotFound, TooLarge
from kilonova.domain.images import ImageStatus
from kilonova.image.file import FileStore
from kilonova.image.service import Images
from kilonova.store import images as rows
from kilonova.store.database import Database

from .conftest import ALICE, Caller

DATA = bytes(range(256)) * 8192


class SlowClient:
    """A client that sends a part, and then waits for the test before it goes on."""

    def __init__(self, then: bytes | Exception) -> None:
        self._parts: list[bytes | Exception] = [b"part", then, b""]
        self.sending = threading.Event()
        self.go_on = threading.Event()

    def read(self, size: int, /) -> bytes:
        part = self._parts.pop(0)
        if len(self._parts) == 1:
            self.sending.set()
            assert self.go_on.wait(60)
        if isinstance(part, Exception):
            raise part
        return part


class Running:
    """An upload in a thread of its own."""

    def __init__(self, images: Images, image_id: str, client: SlowClient) -> None:
        self.client = client
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(images, image_id))
        self._thread.start()
        assert client.sending.wait(60)

    def _run(self, images: Images, image_id: str) -> None:
        context = RequestContext(request_id="r", user_id="a", project_id=ALICE, roles=frozenset({"member"}))
        try:
            images.upload(context, image_id, self.client)
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.error = error

    def finish(self) -> None:
        self.client.go_on.set()
        self._thread.join(60)
        assert not self._thread.is_alive()


def check_queued_again(caller: Caller, image_id: str, folder: Path) -> None:
    shown = caller.show(image_id)
    assert shown["status"] == "queued"
    assert shown["size"] is shown["checksum"] is shown["os_hash_value"] is None
    assert list(folder.iterdir()) == []
    assert caller.upload(image_id, b"again").status_code == 204
    assert caller("GET", f"/v2/images/{image_id}/file").content == b"again"


def test_what_goes_up_comes_down(alice: Caller) -> None:
    made = alice.create_active(DATA)
    assert made["status"] == "active"
    assert made["size"] == made["virtual_size"] == len(DATA)
    assert made["checksum"] == hashlib.md5(DATA).hexdigest()
    assert made["os_hash_algo"] == "sha512"
    assert made["os_hash_value"] == hashlib.sha512(DATA).hexdigest()
    result = alice("GET", f"/v2/images/{made['id']}/file")
    assert result.content == DATA
    assert result.headers["content-type"] == "application/octet-stream"
    assert result.headers["content-length"] == str(len(DATA))
    assert result.headers["content-md5"] == made["checksum"]


@pytest.mark.parametrize(
    ("asked", "part"),
    [
        ("bytes=0-9", slice(0, 10)),
        ("bytes=100-", slice(100, None)),
        ("bytes=-5", slice(-5, None)),
        (f"bytes=10-{10**17}", slice(10, None)),
        (f"bytes=-{10**17}", slice(0, None)),
    ],
)
def test_a_range_of_the_data(alice: Caller, asked: str, part: slice) -> None:
    made = alice.create_active(DATA)
    result = alice("GET", f"/v2/images/{made['id']}/file", headers={"Range": asked})
    expected = DATA[part]
    start, stop, _ = part.indices(len(DATA))
    assert result.status_code == 206
    assert result.content == expected
    assert result.headers["content-length"] == str(len(expected))
    assert result.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(DATA)}"


def test_ranges_that_can_not_be(alice: Caller) -> None:
    path = f"/v2/images/{alice.create_active(DATA)['id']}/file"
    for asked in (f"bytes={len(DATA)}-", "bytes=-0"):
        result = alice.client.simulate_get(f"/image{path}", headers={"X-Auth-Token": "alice", "Range": asked})
        assert result.status_code == 416
        assert result.headers["content-range"] == f"bytes */{len(DATA)}"
    for asked in ("bytes=9-5", "bytes=0-1,5-6", "items=0-1", "bytes=a-b", "bytes=-"):
        result = alice("GET", path, headers={"Range": asked})
        assert result.status_code == 200
        assert result.content == DATA


def test_before_the_upload_there_is_no_content(alice: Caller) -> None:
    result = alice("GET", f"/v2/images/{alice.create()['id']}/file")
    assert (result.status_code, result.content) == (204, b"")


def test_an_empty_raw_image(alice: Caller) -> None:
    made = alice.create_active(b"")
    assert (made["status"], made["size"]) == ("active", 0)
    assert alice("GET", f"/v2/images/{made['id']}/file").content == b""


def test_who_may_download(alice: Caller, bob: Caller, reader: Caller) -> None:
    hidden = alice.create_active(b"x")["id"]
    offered = alice.create_active(b"x", visibility="community")["id"]
    assert bob("GET", f"/v2/images/{hidden}/file").status_code == 404
    assert bob("GET", f"/v2/images/{offered}/file").content == b"x"
    assert reader("GET", f"/v2/images/{hidden}/file").status_code == 403


def test_data_is_uploaded_once(alice: Caller) -> None:
    made = alice.create_active(b"first")
    assert alice.upload(made["id"], b"second").status_code == 409
    assert alice("GET", f"/v2/images/{made['id']}/file").content == b"first"


def test_a_second_upload_at_the_same_time_is_409(alice: Caller, images: Images, folder: Path) -> None:
    image_id = alice.create()["id"]
    first = Running(images, image_id, SlowClient(b" whole"))
    assert alice.show(image_id)["status"] == "saving"
    assert alice.upload(image_id, b"second").status_code == 409
    assert alice("GET", f"/v2/images/{image_id}/file").status_code == 204
    first.finish()
    assert first.error is None
    assert alice("GET", f"/v2/images/{image_id}/file").content == b"part whole"


def test_a_connection_that_breaks_leaves_nothing(alice: Caller, images: Images, folder: Path) -> None:
    image_id = alice.create()["id"]
    upload = Running(images, image_id, SlowClient(ConnectionResetError("reset by peer")))
    upload.finish()
    assert isinstance(upload.error, BadRequest)
    assert "broke off after 4 bytes" in str(upload.error)
    check_queued_again(alice, image_id, folder)


def test_a_delete_during_an_upload(alice: Caller, images: Images, folder: Path) -> None:
    image_id = alice.create()["id"]
    upload = Running(images, image_id, SlowClient(b" whole"))
    assert alice("DELETE", f"/v2/images/{image_id}").status_code == 204
    assert alice("GET", f"/v2/images/{image_id}").status_code == 404
    upload.finish()
    assert isinstance(upload.error, NotFound)
    assert list(folder.iterdir()) == []
    assert alice("POST", "/v2/images", json={"id": image_id}).status_code == 409


@pytest.mark.parametrize("announced", ["9", "11"])
def test_another_size_than_announced_is_refused(alice: Caller, folder: Path, announced: str) -> None:
    """Over a socket Content-Length says it too: see test_image_clients.py."""
    image_id = alice.create()["id"]
    result = alice.upload(image_id, b"0123456789", **{"X-OpenStack-Image-Size": announced})
    assert result.status_code == 400
    check_queued_again(alice, image_id, folder)


@pytest.mark.parametrize("announced", ["x", "-1", "1e3", "9" * 30, ""])
def test_nonsense_for_a_size_is_400(alice: Caller, announced: str) -> None:
    image_id = alice.create()["id"]
    result = alice.upload(image_id, b"0123456789", **{"X-OpenStack-Image-Size": announced})
    assert result.status_code == 400
    assert alice.show(image_id)["status"] == "queued"


@pytest.mark.parametrize("kind", ["application/json", "", "text/plain"])
def test_data_has_its_content_type(alice: Caller, kind: str) -> None:
    image_id = alice.create()["id"]
    assert alice.upload(image_id, b"x", **{"Content-Type": kind}).status_code == 415


def test_a_format_that_lies_is_415(alice: Caller, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "disk"
    subprocess.run(["qemu-img", "create", "-f", "qcow2", path, "1G"], check=True, capture_output=True)
    disk = path.read_bytes()
    honest = alice.create_active(disk, disk_format="qcow2")
    assert (honest["size"], honest["virtual_size"]) == (len(disk), 1 << 30)
    alice("DELETE", f"/v2/images/{honest['id']}")
    for disk_format, data in (("raw", disk), ("qcow2", b"raw" * 1000), ("vmdk", disk)):
        image_id = alice.create(disk_format=disk_format)["id"]
        result = alice.upload(image_id, data)
        assert result.status_code == 415
        assert "does not match stream data" in result.json["message"]
        assert alice.show(image_id)["status"] == "queued"
        assert list(folder.iterdir()) == []


class TestLimit:
    @pytest.fixture
    def config(self) -> Config:
        return Config(image=ImageConfig(max_size=1000))

    def test_the_largest_image(self, alice: Caller, folder: Path) -> None:
        assert alice.create_active(b"x" * 1000)["size"] == 1000

    def test_one_byte_more_is_413(self, alice: Caller, folder: Path) -> None:
        image_id = alice.create()["id"]
        result = alice.upload(image_id, b"x" * 1001)
        assert result.status_code == 413
        assert "1001 bytes are announced" in result.json["message"]
        check_queued_again(alice, image_id, folder)

    def test_also_where_nothing_is_announced(self, alice: Caller, images: Images, folder: Path) -> None:
        image_id = alice.create()["id"]
        upload = Running(images, image_id, SlowClient(b"x" * 1000))
        upload.finish()
        assert isinstance(upload.error, TooLarge)
        check_queued_again(alice, image_id, folder)


def test_recover_ends_what_a_kill_left(
    alice: Caller, images: Images, database: Database, folder: Path
) -> None:
    """As it is after kill -9: rows in between two states, with and without bytes."""
    saving = [alice.create()["id"] for _ in range(2)]
    dying = [alice.create()["id"] for _ in range(2)]
    whole = alice.create_active(b"whole")["id"]
    with database.write() as conn:
        for image_id in saving:
            rows.change_status(conn, image_id, [ImageStatus.QUEUED], ImageStatus.SAVING)
        for image_id in dying:
            rows.change_status(conn, image_id, [ImageStatus.QUEUED], ImageStatus.PENDING_DELETE)
    FileStore(folder).put(saving[0], [b"renamed, and then killed"], 1000)
    FileStore(folder).put(dying[0], [b"not removed yet"], 1000)
    images.recover()
    images.recover()
    assert [file.name for file in folder.iterdir()] == [whole]
    for image_id in saving:
        assert alice.show(image_id)["status"] == "queued"
        assert alice.upload(image_id, b"again").status_code == 204
    for image_id in dying:
        assert alice("GET", f"/v2/images/{image_id}").status_code == 404
        assert alice("POST", "/v2/images", json={"id": image_id}).status_code == 409


class TestRef:
    """What the compute API gets."""

    @pytest.fixture
    def context(self) -> RequestContext:
        return RequestContext(request_id="r", user_id="a", project_id=ALICE, roles=frozenset({"member"}))

    def test_an_active_image(self, alice: Caller, images: Images, context: RequestContext) -> None:
        made = alice.create_active(b"x" * 10, min_disk=1, min_ram=2, hw_disk_bus="ide")
        ref = images.ref(context, made["id"])
        assert (ref.id, ref.name, ref.disk_format, ref.size) == (made["id"], "i", "raw", 10)
        assert (ref.min_disk, ref.min_ram, ref.properties) == (1, 2, {"hw_disk_bus": "ide"})
        assert ref.os_hash_value == hashlib.sha512(b"x" * 10).hexdigest()

    def test_one_that_is_not(self, alice: Caller, images: Images, context: RequestContext) -> None:
        queued = alice.create()["id"]
        with pytest.raises(BadRequest, match=f"Image {queued} is not active"):
            images.ref(context, queued)
        packed = alice.create_active(b"x", container_format="ova")["id"]
        with pytest.raises(BadRequest, match="container format ova"):
            images.ref(context, packed)

    def test_one_of_others(self, bob: Caller, images: Images, context: RequestContext) -> None:
        with pytest.raises(NotFound):
            images.ref(context, bob.create_active()["id"])
        images.ref(context, bob.create_active(visibility="community")["id"])

    def test_conflict_is_no_not_found(self, alice: Caller, images: Images, context: RequestContext) -> None:
        made = alice.create_active()["id"]
        with pytest.raises(Conflict):
            images.upload(context, made, SlowClient(b""))
