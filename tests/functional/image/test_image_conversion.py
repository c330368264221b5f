"""Uploads that are made raw for a store that keeps disks: however large they become, others go on."""

from __future__ import annotations

import os
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from falcon.testing import TestClient
from tests.functional.image.conftest import Caller, authenticate
from tests.running import until

from kilonova.api import image
from kilonova.api.http import application
from kilonova.cancel import Cancel
from kilonova.config import Config
from kilonova.config import Image as ImageConfig
from kilonova.disk_image import qemu_img
from kilonova.domain.errors import StaleEpoch
from kilonova.image import file as files
from kilonova.image import raw
from kilonova.image.base import ImageStore
from kilonova.image.file import FileStore
from kilonova.image.places import Places
from kilonova.image.raw import Converter
from kilonova.image.service import Images
from kilonova.store.database import Database

MIB, GIB = 1 << 20, 1 << 30
CLUSTER = 1 << 16
PER_TABLE = CLUSTER // 8
"""Clusters that one table of the second level has: 512 MiB of the disk."""


class Disks(FileStore):
    """It keeps disks, as Ceph does."""

    keeps_disks = True


class Gate:
    """In place of qemu-img's conversion: it goes on when it may, or is told to end."""

    def __init__(self) -> None:
        self.begun: list[Path] = []
        self.open = threading.Event()

    def convert(self, source: Path, _format: str, _target: str, *, cancel: Cancel) -> None:
        self.begun.append(source)
        until(lambda: self.open.is_set() or cancel.is_set(), 60, "a word to the conversion")
        if cancel.is_set():
            raise StaleEpoch("it was told to end")

    def await_begun(self, number: int = 1) -> None:
        until(lambda: len(self.begun) == number, 60, f"{number} conversions")


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    return tmp_path / "staging"


@pytest.fixture
def converter(staging: Path) -> Converter:
    return Converter(staging, 64 * GIB, reserve=64 * MIB)


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return Disks(tmp_path / "images")


@pytest.fixture
def images(database: Database, store: ImageStore, converter: Converter) -> Images:
    return Images(database, store, Config(image=ImageConfig(max_converted_size=64 * GIB)), converter)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    found = Gate()
    monkeypatch.setattr(qemu_img, "convert", found.convert)
    return found


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


@pytest.fixture
def small(tmp_path: Path) -> bytes:
    path = tmp_path / "small"
    qemu_img.create_empty(path, size=MIB)
    return path.read_bytes()


def bomb(path: Path, size: int) -> bytes:
    """A qcow2 of that size, all of whose disk is one and the same cluster of noise."""
    qemu_img.create_empty(path, size=size)
    subprocess.run(
        ["qemu-io", "-f", "qcow2", "-c", f"write -q -P 0x5a 0 {CLUSTER}", str(path)], check=True, timeout=30
    )
    with path.open("r+b") as file:
        file.seek(36)
        tables, first = struct.unpack(">IQ", file.read(12))
        file.seek(first)
        (table,) = struct.unpack(">Q", file.read(8))
        file.seek(table & 0x00FFFFFFFFFFFE00)
        (cluster,) = struct.unpack(">Q", file.read(8))
        file.seek(table & 0x00FFFFFFFFFFFE00)
        file.write(struct.pack(">Q", cluster) * PER_TABLE)
        file.seek(first)
        file.write(struct.pack(">Q", table) * tables)
    return path.read_bytes()


def queued(alice: Caller) -> str:
    return str(alice.create(disk_format="qcow2")["id"])


def free(monkeypatch: pytest.MonkeyPatch, answer: Callable[[], int]) -> None:
    monkeypatch.setattr(files, "free_bytes", lambda _descriptor: answer())


def test_a_small_file_that_is_a_large_disk_does_not_fill_ours(
    alice: Caller, staging: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = bomb(tmp_path / "bomb", 32 * GIB)
    assert len(data) < MIB
    free(monkeypatch, lambda: GIB)
    image_id = queued(alice)
    refused = alice.upload(image_id, data)
    assert (refused.status_code, "takes 327" in refused.text, "960 MiB" in refused.text) == (413, True, True)
    assert alice.show(image_id)["status"] == "queued"
    assert list(staging.iterdir()) == []


def test_what_others_were_promised_is_not_free(
    alice: Caller,
    gate: Gate,
    pool: ThreadPoolExecutor,
    converter: Converter,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And holes take nothing."""
    data = bomb(tmp_path / "bomb", GIB)
    qemu_img.create_empty(tmp_path / "holes", size=32 * GIB)
    free(monkeypatch, lambda: 2 * GIB)
    first = pool.submit(alice.upload, queued(alice), data)
    gate.await_begun()
    assert alice.upload(queued(alice), data).status_code == 413
    second = pool.submit(alice.upload, queued(alice), (tmp_path / "holes").read_bytes())
    gate.await_begun(2)
    converter.close()
    assert [one.result(60).status_code for one in (first, second)] == [503, 503]


def test_a_disk_that_others_fill_ends_it(
    alice: Caller,
    gate: Gate,
    pool: ThreadPoolExecutor,
    staging: Path,
    small: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    free(monkeypatch, lambda: 63 * MIB if gate.begun else GIB)
    refused = pool.submit(alice.upload, queued(alice), small).result(60)
    assert (refused.status_code, "full" in refused.text) == (413, True)
    assert list(staging.iterdir()) == []


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_delete_ends_it(
    alice: Caller,
    gate: Gate,
    pool: ThreadPoolExecutor,
    staging: Path,
    small: bytes,
    images: Images,
    elsewhere: bool,
) -> None:
    """Also in another process of the API, which knows of it by the folder alone."""
    image_id = queued(alice)
    upload = pool.submit(alice.upload, image_id, small)
    gate.await_begun()
    if elsewhere:
        other = Images(images._db, Disks(staging.parent / "images"), Config(), Converter(staging, GIB))
        caller = Caller(TestClient(application([image.service(other)], authenticate)), "alice")
    else:
        caller = alice
    assert caller("DELETE", f"/v2/images/{image_id}").status_code == 204
    assert upload.result(60).status_code == 404
    assert list(staging.iterdir()) == []
    assert alice("GET", f"/v2/images/{image_id}").status_code == 404


def test_a_stop_ends_all(
    alice: Caller, gate: Gate, pool: ThreadPoolExecutor, converter: Converter, small: bytes
) -> None:
    image_id = queued(alice)
    upload = pool.submit(alice.upload, image_id, small)
    gate.await_begun()
    converter.close()
    assert upload.result(60).status_code == 503
    assert alice.show(image_id)["status"] == "queued"


def test_some_wait_and_others_are_sent_away(
    alice: Caller, gate: Gate, pool: ThreadPoolExecutor, converter: Converter, small: bytes
) -> None:
    """However many come, most threads of the API are there for others."""
    most = raw._AT_ONCE + raw._WAITING
    uploads = [pool.submit(alice.upload, queued(alice), small) for _ in range(most)]
    until(lambda: len(converter._places._queue) == most, 60, "all in the queue")
    gate.await_begun(raw._AT_ONCE)
    assert alice.upload(queued(alice), small).status_code == 503
    assert len(gate.begun) == raw._AT_ONCE
    gate.open.set()
    assert [upload.result(60).status_code for upload in uploads] == [204] * most


def test_nobody_waits_for_ever(
    alice: Caller, gate: Gate, pool: ThreadPoolExecutor, converter: Converter, small: bytes
) -> None:
    converter._places = Places(1, 1, 0.05)
    first = pool.submit(alice.upload, queued(alice), small)
    gate.await_begun()
    assert alice.upload(queued(alice), small).status_code == 503
    gate.open.set()
    assert first.result(60).status_code == 204


def test_uploads_leave_the_reserve_free(
    alice: Caller, store: Disks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of whatever format: the database may be on the same disk."""
    store._reserve = 64 * MIB
    free(monkeypatch, lambda: 64 * MIB + 1000)
    refused = alice.upload(str(alice.create()["id"]), os.urandom(2 * MIB))
    assert (refused.status_code, "full" in refused.text) == (413, True)
    assert [path for path in (tmp_path / "images").iterdir() if path.is_file()] == []
    assert alice.create_active(b"small")["status"] == "active"
