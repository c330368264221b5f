"""What came of an image is looked at by several threads: all of it, once, in its order, and to an end."""

from __future__ import annotations

import hashlib
import os
import threading
import uuid
from pathlib import Path

import pytest

from kilonova.cancel import Cancel
from kilonova.disk_image.check import Check
from kilonova.disk_image.inspect import Inspector
from kilonova.disk_image.tree_hash import PIECE, TreeHash
from kilonova.domain.errors import BuildAborted, StaleEpoch
from kilonova.domain.servers import ImageRef


def image(data: bytes, by_tree: bool) -> ImageRef:
    tree = TreeHash()
    tree.update(data)
    found = tree.hexdigest()
    tree.close()
    return ImageRef(
        id=str(uuid.uuid4()),
        disk_format="raw",
        size=len(data),
        os_hash_value=hashlib.sha512(data).hexdigest(),
        tree_hash=found if by_tree else None,
    )


@pytest.fixture
def data() -> bytes:
    return os.urandom(20 * PIECE + 5)


@pytest.mark.parametrize("by_tree", [True, False])
def test_the_inspector_sees_all_of_it_in_its_order(
    tmp_path: Path, data: bytes, by_tree: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = bytearray()
    feed = Inspector.feed

    def noted(inspector: Inspector, chunk: bytes | memoryview) -> None:
        seen.extend(chunk)
        feed(inspector, chunk)

    monkeypatch.setattr(Inspector, "feed", noted)
    path = tmp_path / "disk"
    path.write_bytes(data)
    with path.open("rb") as file, Check(image(data, by_tree), file.fileno(), Cancel()) as check:
        for end in (3, PIECE + 1, 12 * PIECE, len(data)):
            check.reached(end)
        assert check.verdict() == len(data)
    assert seen == data


@pytest.mark.parametrize("by_tree", [True, False])
def test_a_file_that_is_cut_short_is_no_image(tmp_path: Path, data: bytes, by_tree: bool) -> None:
    path = tmp_path / "disk"
    path.write_bytes(data[: 5 * PIECE + 7])
    with path.open("rb") as file, Check(image(data, by_tree), file.fileno(), Cancel()) as check:
        check.reached(len(data))
        with pytest.raises(BuildAborted, match="cut short"):
            check.verdict()


@pytest.mark.parametrize("by_tree", [True, False])
def test_who_is_cancelled_ends(tmp_path: Path, data: bytes, by_tree: bool) -> None:
    path = tmp_path / "disk"
    path.write_bytes(data)
    cancel = Cancel()
    cancel.set()
    with path.open("rb") as file, Check(image(data, by_tree), file.fileno(), cancel) as check:
        check.reached(len(data))
        with pytest.raises(StaleEpoch):
            check.verdict()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("image-")]
