"""One operation from its message to its end: taken, done, ended; or failed, undone and ended so."""

from __future__ import annotations

from contextlib import suppress

from kilonova import log
from kilonova.domain.errors import KilonovaError, StaleEpoch, Unavailable
from kilonova.domain.messages import PerformOperation
from kilonova.engine import lease
from kilonova.store import operations
from kilonova.volume_manager import kinds
from kilonova.volume_manager.parts import Parts
from kilonova.volume_manager.running import Running
from kilonova.volume_manager.task import Task

_log = log.get("volume")


def perform(parts: Parts, running: Running, message: PerformOperation) -> None:
    """Do it, if it is ours to do and nobody else does it."""
    with parts.db.read() as conn:
        asked = operations.get(conn, message.operation_id)
    backend = None if asked is None else parts.backend(asked.host)
    if asked is None or backend is None or asked.kind not in kinds.PERFORM:
        _log.warning("not_ours", operation=message.operation_id, host=None if asked is None else asked.host)
        return
    work = lease.take(parts.db, message.operation_id, parts.owner, parts.config.operations.lease)
    if work is None:
        return
    with log.bound(operation=work.id, request_id=work.request_id, resource=work.server_id):
        try:
            with running.begin(work) as cancel:
                _do(Task(parts, work, backend, cancel))
        except StaleEpoch:
            _log.info("moved_on", kind=work.kind)  # while it waited: it has made nothing


def _do(task: Task) -> None:
    kind = task.work.kind
    task.reach("take.after")
    _log.info("began", kind=kind, epoch=task.work.epoch)
    try:
        kinds.PERFORM[kind](task)
        task.done()
        _log.info("ended", kind=kind)
    except StaleEpoch:
        _let_go(task)
    except Unavailable as error:
        _postpone(task, error)
    except Exception as error:  # noqa: BLE001 - the edge of the work: whoever asked must learn of it
        _fail(task, error)


def _let_go(task: Task) -> None:
    """Another has it, or it is over: what it made goes, if nobody wants it."""
    _log.info("moved_on", kind=task.work.kind)
    try:
        if kinds.is_nobodys(task):
            kinds.UNDO[task.work.kind](task)
    except KilonovaError as error:
        # The record is in error, or on its way out: its delete looks again.
        _log.warning("not_undone", kind=task.work.kind, error=error.message)


def _postpone(task: Task, error: Unavailable) -> None:
    _log.warning("postponed", kind=task.work.kind, error=error.message)
    with suppress(StaleEpoch, Unavailable):
        task.postpone(error.message)


def _fail(task: Task, error: Exception) -> None:
    if isinstance(error, KilonovaError):
        message = error.message
        _log.warning("failed", kind=task.work.kind, error=message)
    else:
        message = f"Unexpected: {type(error).__name__}. The volume service's log has the details."
        _log.exception("failed", kind=task.work.kind)
    try:
        undo = kinds.UNDO.get(task.work.kind)
        if undo is not None:
            task.reach("undo.before")
            undo(task)
            task.reach("undo.after")
        task.failed(message)
    except StaleEpoch:
        _let_go(task)
    except KilonovaError as away:
        # It stays open: its lease runs out and it is tried again, until its deadline.
        _log.warning("not_ended", kind=task.work.kind, error=away.message)
