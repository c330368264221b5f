"""build_instances for several builds that wait together: taken, placed and handed over at once.

Three transactions and one question to the scheduler for all of them. It is for those that nobody has taken
yet; what is not as usual with one of them is left to build.py, which does the same for one.
"""

from __future__ import annotations

from collections.abc import Sequence

from kilonova import log
from kilonova.bus.base import NOT_YET, Outcomes
from kilonova.conductor import build
from kilonova.conductor.parts import Parts
from kilonova.domain.clock import now
from kilonova.domain.errors import KilonovaError, Unavailable
from kilonova.domain.messages import (
    PerformOperation,
    SelectDestinations,
    SelectForMany,
    Selection,
    Selections,
)
from kilonova.domain.servers import BuildSpec, TaskState
from kilonova.store import operation_sets, operations, server_sets
from kilonova.store.database import Row
from kilonova.store.operation_sets import HandedOver
from kilonova.store.repeat import repeated
from kilonova.store.server_sets import Place

_log = log.get("conductor")


def build_instances(parts: Parts, messages: list[PerformOperation]) -> Outcomes:
    """Bring these builds to their hosts. NOT_YET: such as are not new."""
    works, specs = _take(parts, sorted({message.operation_id for message in messages}))
    known = [work for work in works if work.server_id in specs]
    placed = _placed(parts, known, specs)
    for work in works:
        if work.id not in placed:
            with log.bound(request_id=work.request_id):
                build.go_on(parts, work, specs.get(work.server_id))
    taken = {work.id for work in works}
    return [None if message.operation_id in taken else NOT_YET for message in messages]


@repeated
def _take(parts: Parts, operation_ids: Sequence[str]) -> tuple[Sequence[Row], dict[str, BuildSpec]]:
    with parts.db.write() as conn:
        lease = parts.config.operations.lease
        works = operation_sets.take_new(conn, operation_ids, parts.name, lease)
        return works, server_sets.specs(conn, [work.server_id for work in works])


def _placed(parts: Parts, works: list[Row], specs: dict[str, BuildSpec]) -> set[str]:
    """The ids of those that are on their way to their hosts, or wait for a scheduler. The others are as they
    were taken."""
    if len(works) < 2:
        return set()
    started = now()
    for _ in works:
        parts.faults.reach("build.select_destinations.before")
    try:
        selected = _select(parts, works, specs)
    except Unavailable as error:
        # As each of them would find it, one after the other, while all that comes waits for them.
        for work in works:
            _postpone(parts, work, error)
        return {work.id for work in works}
    except KilonovaError as error:
        _log.info("builds_one_by_one", builds=len(works), error=error.message)
        return set()
    try:
        for _ in selected:
            parts.faults.reach("build.select_destinations.after")
        servers = _hand_over(parts, selected, started) if selected else {}
    except KilonovaError as error:
        _log.info("builds_one_by_one", builds=len(works), error=error.message)
        return set()
    for work, selection in selected:
        with log.bound(request_id=work.request_id, operation=work.id, server=work.server_id):
            parts.faults.reach("build.hand_over.after")
            _log.info("build_handed_over", host=selection.host, attempt=work.attempt + 1)
            build.tell_host(parts, work, selection.host, servers[work.server_id])
    return {work.id for work, _ in selected}


def _postpone(parts: Parts, work: Row, error: Unavailable) -> None:
    with log.bound(request_id=work.request_id, operation=work.id, server=work.server_id):
        try:
            build.postpone(parts, work, error)
        except KilonovaError as other:  # it was superseded; or its lease runs out
            _log.info("build_not_postponed", error=other.message)


def _select(parts: Parts, works: list[Row], specs: dict[str, BuildSpec]) -> list[tuple[Row, Selection]]:
    asked = [
        SelectDestinations(
            operation_id=work.id, epoch=work.epoch, spec=specs[work.server_id], exclude=work.tried_hosts
        )
        for work in works
    ]
    patience = parts.config.operations.lease / 2  # what it answers later is of builds that are ours no more
    request = SelectForMany(asked=asked)
    answer = parts.bus.call("scheduler", "select_for_many", request, Selections, timeout=patience)
    pairs = zip(works, answer.selected, strict=True)
    return [(work, selection) for work, selection in pairs if selection is not None]


@repeated
def _hand_over(parts: Parts, selected: list[tuple[Row, Selection]], started: float) -> dict[str, Row]:
    """One transaction: each server is placed, its operation is the host's. What the hosts must know."""
    handed = [
        HandedOver(
            operation_id=work.id,
            epoch=work.epoch,
            owner=work.owner,
            host=selection.host,
            tried_hosts=[*work.tried_hosts, selection.host],
            alternates=selection.alternates,
            attempt=work.attempt + 1,
        )
        for work, selection in selected
    ]
    places = [Place(work.server_id, chosen.host, chosen.availability_zone) for work, chosen in selected]
    step = build.decision(started, "Success")
    rows = [row for work, _ in selected for row in operations.step_rows(work.id, work.epoch, None, [step])]
    with parts.db.write() as conn:
        operation_sets.hand_over(conn, handed, parts.config.operations.lease)
        servers = server_sets.place(conn, places, TaskState.NETWORKING)
        if len(servers) < len(places):
            raise Unavailable("A place that was chosen was given away.")
        operations.put_step_rows(conn, rows)
    return servers
