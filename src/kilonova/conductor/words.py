"""What several hosts say of their builds at the same time, written as one transaction.

Each of these functions does for many what proxy.py does for one, where all is as it should be: the operation
is the speaker's, and the word is of the usual kind. Any other word is left as it is (NOT_YET), for proxy.py
to do or to refuse; if the transaction fails, all of them are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from kilonova import log
from kilonova.bus.base import NOT_YET, Outcomes
from kilonova.conductor.parts import Parts
from kilonova.domain.clock import now
from kilonova.domain.messages import Activate, Finished, Nothing, Progress
from kilonova.domain.servers import VmState
from kilonova.engine import lease
from kilonova.store import hosts, operation_sets, operations, server_sets
from kilonova.store.database import Row
from kilonova.store.operation_sets import Held

_log = log.get("conductor")

Word = TypeVar("Word", Progress, Activate, Finished)


def progress(parts: Parts, words: list[Progress]) -> Outcomes:
    """Steps' boundaries."""
    first = _first(words)
    with parts.db.write() as conn:
        held = operation_sets.lock_held(conn, _claimed(first))
        if held:
            until = now() + parts.config.operations.lease
            operation_sets.change(conn, list(held), lease_until=until)
            operations.put_step_rows(conn, _steps(first, held))
            shown: dict[str, list[str]] = {}
            for word in first:
                if word.operation_id in held and word.task_state is not None:
                    shown.setdefault(word.task_state, []).append(held[word.operation_id].server_id)
            for task_state, server_ids in sorted(shown.items()):
                server_sets.change(conn, server_ids, task_state=task_state)
    for work in held.values():
        parts.faults.reach(f"{work.kind}.progress.after")
    return _outcomes(words, first, held)


def activate(parts: Parts, words: list[Activate]) -> Outcomes:
    """The commits of builds."""
    first = _first(words)
    with parts.db.write(durable=parts.db.engine.name == "postgresql") as conn:
        found = operation_sets.lock_held(conn, _claimed(first))
        held = {work.id: work for work in found.values() if work.kind == "build"}
        if held:
            operation_sets.change(conn, list(held), **lease.ending(operations.DONE))
            operations.put_step_rows(conn, _steps(first, held))
            operation_sets.end_steps(conn, list(held), *lease.LOST_STEP)
            server_sets.change(
                conn,
                [work.server_id for work in held.values()],
                vm_state=VmState.ACTIVE,
                task_state=None,
                launched_at=now(),
                fault=None,
            )
            hosts.builds_done(conn, sorted({work.host for work in held.values()}))
            for work in held.values():
                operations.note_end(conn, work, operations.DONE)
    for work in held.values():
        _log.info(
            "server_active",
            operation=work.id,
            server=work.server_id,
            host=work.host,
            request_id=work.request_id,
        )
        parts.faults.reach("build.activate.after")
    return _outcomes(words, first, held)


def finished(parts: Parts, words: list[Finished]) -> Outcomes:
    """Ends of builds that went well, after their commits."""
    first = _first([word for word in words if word.kind == "build" and word.error is None])
    with parts.db.write() as conn:
        found = operation_sets.done(conn, _claimed(first))
        done = {work.id: work for work in found.values() if work.kind == "build"}
        if done:
            operations.put_step_rows(conn, _steps(first, done))
            parts.network.port_status([work.server_id for work in done.values()], active=True)
            shown: dict[int, list[str]] = {}
            for word in first:
                if word.operation_id in done:
                    shown.setdefault(int(word.power_state), []).append(done[word.operation_id].server_id)
            for state, server_ids in sorted(shown.items()):
                server_sets.change(
                    conn, server_ids, if_vm_state=VmState.ACTIVE, if_idle=True, power_state=state
                )
    for _ in done:
        parts.faults.reach("build.finished.after")
    return _outcomes(words, first, done)


def _first(words: Sequence[Word]) -> list[Word]:
    """Of each operation one word."""
    found: dict[str, Word] = {}
    for word in words:
        found.setdefault(word.operation_id, word)
    return list(found.values())


def _claimed(words: Sequence[Word]) -> list[Held]:
    return [Held(word.operation_id, word.epoch, operations.agent(word.host)) for word in words]


def _steps(words: Sequence[Word], works: dict[str, Row]) -> list[dict[str, object]]:
    told = [(works[word.operation_id], word) for word in words if word.operation_id in works]
    return [
        row for work, word in told for row in operations.step_rows(work.id, work.epoch, work.host, word.steps)
    ]


def _outcomes(words: Sequence[Word], first: Sequence[Word], done: dict[str, Row]) -> Outcomes:
    written = {id(word) for word in first if word.operation_id in done}
    return [Nothing() if id(word) in written else NOT_YET for word in words]
