"""Where a shelved server comes back, and what becomes of its records when it leaves its host and comes back.

Its ports and volumes stay its own, on no host; its image is deleted when nothing needs it any more.
"""

from __future__ import annotations

import uuid
from typing import Any

import msgspec
import sqlalchemy as sa

from kilonova import log
from kilonova.conductor import server_volume_ends
from kilonova.conductor.parts import Parts
from kilonova.domain.actions import ACTIONS
from kilonova.domain.clock import now
from kilonova.domain.context import RequestContext
from kilonova.domain.errors import Unavailable
from kilonova.domain.images import ImageStatus
from kilonova.domain.messages import PerformOperation, SelectDestinations, Selection, StepRecord
from kilonova.domain.servers import PowerState, TaskState, VmState
from kilonova.engine import lease
from kilonova.store import claims, images, operations, servers
from kilonova.store.database import Row
from kilonova.store.repeat import repeated

_log = log.get("conductor")


def place(parts: Parts, work: Row) -> Row:
    """A host, claimed and told the network; the operation is its. NoValidHost; Unavailable."""
    began = now()
    with parts.db.read() as conn:
        spec = servers.spec(conn, work.server_id)
    asked = msgspec.structs.replace(spec, host=work.payload.get("to_host"))
    parts.faults.reach("unshelve.select_destinations.before")
    request = SelectDestinations(operation_id=work.id, epoch=work.epoch, spec=asked)
    selection = parts.bus.call("scheduler", "select_destinations", request, Selection)
    parts.faults.reach("unshelve.select_destinations.after")
    return _placed(parts, work, selection, began)


@repeated
def _placed(parts: Parts, work: Row, selection: Selection, began: float) -> Row:
    host, zone = selection.host, selection.availability_zone
    step = StepRecord(name="select_destinations", started_at=began, finished_at=now(), result="Success")
    with parts.db.write() as conn:
        lease.hand_to_host(conn, work, host, parts.config.operations.lease)
        vifs = parts.network.bind_for_instance(work.server_id, host)
        if servers.place(conn, work.server_id, host, zone, TaskState.UNSHELVING) is None:
            raise Unavailable("The place that was chosen was given away.")
        servers.set_vifs(conn, work.server_id, vifs)
        operations.put_steps(conn, work.id, work.epoch, None, [step])
        found = operations.get(conn, work.id)
        assert found is not None
        return found


def left(conn: sa.Connection, parts: Parts, server_id: str) -> dict[str, Any]:
    """Of a server that is on no host any more: what its record says then. Its volumes stay promised to it."""
    server_volume_ends.park_all(conn, parts, server_id)
    parts.network.bind_for_instance(server_id, "")
    claims.release(conn, server_id)
    return {"host": None, "availability_zone": None, "power_state": PowerState.NOSTATE}


def came_back(conn: sa.Connection, parts: Parts, server_id: str) -> dict[str, Any]:
    server_volume_ends.complete_all(conn, parts, server_id)
    parts.network.port_status([server_id], active=True)
    forget_image(conn, server_id)
    return {"shelved_image_id": None, "shelved_at": None}


def forget_image(conn: sa.Connection, server_id: str) -> None:
    """The image of a shelved server, if it has one, is deleted; one that somebody protects stays."""
    image_id = servers.get(conn, server_id).shelved_image_id
    if image_id is not None:
        images.change_status(
            conn, image_id, [ImageStatus.ACTIVE, ImageStatus.DEACTIVATED], ImageStatus.PENDING_DELETE
        )


def offload_due(parts: Parts) -> None:
    """Shelved servers whose time on their hosts is over begin to leave."""
    patience = parts.config.compute.shelved_offload_time
    if patience <= 0:
        return
    with parts.db.read() as conn:
        due = servers.shelved_before(conn, now() - patience)
    for server_id in due:
        _begin_offload(parts, server_id)


@repeated
def _begin_offload(parts: Parts, server_id: str) -> None:
    rule = ACTIONS["shelve_offload"]
    with parts.db.write() as conn:
        server = servers.get(conn, server_id, for_update=True)
        if server.vm_state != VmState.SHELVED or server.task_state is not None or server.host is None:
            return
        context = RequestContext(request_id=f"req-{uuid.uuid4()}", user_id=server.user_id)
        deadline = now() + parts.config.operations.action_timeout
        work = operations.new("shelve_offload", rule.record, server_id, server.project_id, context, deadline)
        operations.insert(conn, [work | {"host": server.host}])
        servers.change(conn, server_id, task_state=rule.task_state)
    parts.faults.reach("shelve_offload.due.after")
    parts.bus.cast("conductor", "perform_action", PerformOperation(operation_id=work["id"]))
