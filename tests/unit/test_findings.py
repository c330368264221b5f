"""What was wrong with a host's network is kept: the latest, with times (network/host/findings.py)."""

from __future__ import annotations

from pathlib import Path

import pytest

from kilonova.network.host import findings
from kilonova.network.host.findings import FILE, KEPT, Findings, Found, read


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    time = [1000.0]
    monkeypatch.setattr(findings, "now", lambda: time[0])
    return time


def test_it_outlives_the_process(tmp_path: Path, clock: list[float]) -> None:
    Findings(tmp_path).mended(["tap t made"])
    clock[0] = 1005.0
    Findings(tmp_path).failed("nft: no")
    assert read(tmp_path / FILE) == [
        Found(what="tap t made", mended=True, first=1000.0, last=1000.0),
        Found(what="nft: no", mended=False, first=1005.0, last=1005.0),
    ]


def test_the_same_again_is_one_finding(tmp_path: Path, clock: list[float]) -> None:
    kept = Findings(tmp_path)
    for _ in range(3):
        clock[0] += 5
        kept.failed("no switch")
        kept.mended(["tap t made"])
    kept.mended(["no switch"])
    clock[0] += 4000
    kept.failed("no switch")
    told = [(one.what, one.mended, one.times, one.last - one.first) for one in read(tmp_path / FILE)]
    assert told == [
        ("no switch", False, 3, 10.0),
        ("tap t made", True, 3, 10.0),
        ("no switch", True, 1, 0.0),
        ("no switch", False, 1, 0.0),
    ]


def test_it_does_not_grow(tmp_path: Path, clock: list[float]) -> None:
    kept = Findings(tmp_path)
    for number in range(KEPT):
        kept.mended([f"thing {number}"])
    kept.mended([f"device {number} made" for number in range(500)])
    kept.failed("x" * 10_000)
    found = [one.what for one in read(tmp_path / FILE)]
    assert len(found) == KEPT
    assert "460 more things at the same moment" in found
    assert f"thing {KEPT - 1}" in found, "what was found before is not all forgotten"
    assert max(map(len, found)) == 500


def test_nothing_new_writes_nothing_and_a_full_disk_stops_nobody(tmp_path: Path) -> None:
    kept = Findings(tmp_path)
    kept.mended([])
    assert not (tmp_path / FILE).exists()
    gone = Findings(tmp_path / "gone")
    gone.mended(["tap t made"])
    assert read(tmp_path / "gone" / FILE) == []


def test_they_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[str] = []
    monkeypatch.setattr(findings._found, "add", counted.append)
    kept = Findings(tmp_path)
    kept.mended(["tap t made", "tap u made"])
    kept.failed("no switch")
    assert counted == ["mended", "mended", "failed"]


def test_half_a_file_is_none(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('[{"what": "tap')
    assert read(tmp_path / FILE) == []
    Findings(tmp_path).mended(["tap t made"])
    assert [one.what for one in read(tmp_path / FILE)] == ["tap t made"]
