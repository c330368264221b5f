"""Operations of volumes that no manager ends, and volumes that no operation explains."""

from __future__ import annotations

from kilonova import log
from kilonova.conductor.parts import Parts
from kilonova.engine import lease
from kilonova.store import operations
from kilonova.store.database import Row
from kilonova.volume.builtin import endings
from kilonova.volume.builtin.endings import KINDS
from kilonova.volume.builtin.parts import Parts as RuleParts

__all__ = ["KINDS", "end_in_error", "repair"]

_log = log.get("sweeper")


def end_in_error(parts: Parts, work: Row, message: str) -> None:
    """Past its deadline: what a manager may have made of it, it removes when it learns that it moved on."""
    with parts.db.write() as conn:
        lease.kept(conn, work)
        endings.failed(conn, _rules(parts), work, message)
        lease.close(conn, work, operations.FAILED, message)


def repair(parts: Parts, before: float) -> None:
    """In a state on its way to another since before that time, with nothing open for it: a bug of ours."""
    with parts.db.read() as conn:
        if not endings.in_limbo(conn, before):
            return
    with parts.db.write() as conn:
        for volume_id in endings.repair(conn, _rules(parts), before):
            _log.error("volume_in_limbo", volume=volume_id)


def _rules(parts: Parts) -> RuleParts:
    """What the volume service's rules work with."""
    return RuleParts(parts.db, parts.bus, parts.config)
