"""Operations of volumes that no manager ends, and volumes and attachments that no operation explains."""

from __future__ import annotations

from functools import partial

from kilonova import log
from kilonova.conductor.parts import Parts
from kilonova.domain.errors import NotFound
from kilonova.engine import lease
from kilonova.engine.interfaces import look_again
from kilonova.store import operations, servers, volume_attachments
from kilonova.store import volumes as store
from kilonova.store.database import Row, after_commit
from kilonova.store.repeat import repeated
from kilonova.volume.builtin import endings
from kilonova.volume.builtin.endings import KINDS
from kilonova.volume.builtin.parts import Parts as RuleParts

__all__ = ["KINDS", "end_in_error", "mend_attachments", "repair"]

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


def mend_attachments(parts: Parts, before: float) -> None:
    """Attachments that nothing brings to an end since before that time: a bug of ours. What a server has that
    is no more is freed; what one on no host has is promised to it. What a server on a host has stays its own,
    whatever became of it there: nobody else gets what a guest may be writing to, and it can be detached."""
    with parts.db.read() as conn:
        found = volume_attachments.astray(conn, before)
    for one in found:
        try:
            _mend_attachment(parts, one, before)
        except NotFound:  # it, or its server, went meanwhile
            continue


@repeated
def _mend_attachment(parts: Parts, found: Row, before: float) -> None:
    with parts.db.write() as conn:
        store.get(conn, found.volume_id, for_update=True)
        if not found.gone:
            servers.get(conn, found.server_id, for_update=True)  # nothing begins with it from here on
        again = volume_attachments.astray(conn, before, found.id)
        if not again:
            return
        (now_is,) = again
        _log.error("attachment_in_limbo", attachment=found.id, volume=found.volume_id, server=found.server_id)
        if now_is.gone:
            parts.volumes.release(found.id)
        elif now_is.host is None:
            parts.volumes.park(found.id)
        else:
            parts.volumes.complete(found.id, "")
            after_commit(conn, partial(look_again, parts.bus, now_is.host, found.server_id))


def _rules(parts: Parts) -> RuleParts:
    """What the volume service's rules work with."""
    return RuleParts(parts.db, parts.bus, parts.config)
