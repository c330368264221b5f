"""What was wrong with this host's network, mended or not: kept in one file, for ``kilonova doctor``.

The latest only: what comes again and again is one finding with a number.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path

import msgspec

from kilonova import log, metrics
from kilonova.domain import codec
from kilonova.domain.clock import now
from kilonova.network.host import records

_log = log.get("network.host")
_found = metrics.Counter("network_findings", "What was wrong with the host's network.", ("result",))

FILE = "findings.json"
KEPT = 200
_AT_ONCE = 40
"""Of one look: who lost its network lost it all, and what was found before should not be forgotten."""
_SAME = 3600.0
"""Seconds within which the same again is the same finding."""
_LONGEST = 500


class Found(msgspec.Struct, frozen=True, kw_only=True):
    what: str
    mended: bool
    """False: it could not be, and is tried again."""
    first: float
    last: float
    """Epoch seconds."""
    times: int = 1


class Findings:
    """Thread-safe; one process writes. A disk that is full keeps nobody from mending."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._lock = threading.Lock()
        self._known: list[Found] | None = None

    def mended(self, lines: list[str]) -> None:
        more = len(lines) - _AT_ONCE
        told = lines[:_AT_ONCE] + ([f"{more} more things at the same moment"] if more > 0 else [])
        self._add((line, True) for line in told)

    def failed(self, reason: str) -> None:
        self._add([(reason, False)])

    def _add(self, told: Iterable[tuple[str, bool]]) -> None:
        with self._lock:
            known = self._known if self._known is not None else read(self._path)
            before = list(known)
            for what, mended in told:
                _found.add("mended" if mended else "failed")
                known = _with(known, what[:_LONGEST], mended)
            self._known = known[-KEPT:]
            if self._known != before:
                self._write()

    def _write(self) -> None:
        try:
            records.write(self._path, msgspec.json.encode(self._known))
        except OSError as error:
            _log.warning("finding_not_kept", error=str(error))


def read(path: Path) -> list[Found]:
    """The oldest first. None of a file that a power cut left half."""
    content = records.read(path)
    try:
        return codec.from_json(content, list[Found]) if content else []
    except msgspec.MsgspecError:
        return []


def _with(known: list[Found], what: str, mended: bool) -> list[Found]:
    at = now()
    for one in known:
        if (one.what, one.mended) == (what, mended) and at - one.last < _SAME:
            again = msgspec.structs.replace(one, last=at, times=one.times + 1)
            return [other for other in known if other is not one] + [again]
    return [*known, Found(what=what, mended=mended, first=at, last=at)]
