"""The records of a host's network, when the process or the disk gave out in the midst of a write."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import msgspec
import pytest

from kilonova.domain.network import Vif
from kilonova.network.host import records
from kilonova.network.host.records import Records


def vif() -> Vif:
    return Vif(port_id=str(uuid4()), network_id=str(uuid4()), mac="fa:16:3e:00:00:01", addresses=[])


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, new = vif(), vif()
    Records(tmp_path).put(kept)

    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:1])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        Records(tmp_path).put(new)
    assert files(tmp_path) == [f"ports/{kept.port_id}.json"]


def test_what_a_kill_leaves_of_a_write_is_no_record(tmp_path: Path) -> None:
    kept, unfinished = vif(), vif()
    Records(tmp_path).put(kept)
    fresh = tmp_path / "ports" / f".{unfinished.port_id}.json.1234"
    for left in (msgspec.json.encode(unfinished), b"{", b""):
        fresh.write_bytes(left)
        assert list(Records(tmp_path).vifs()) == [kept.port_id]
        assert files(tmp_path) == [f"ports/{kept.port_id}.json"]
    assert records.read(fresh) is None
