"""perform_action: stop, start, reboot, pause, … of a server: handed to the host that has it."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from kilonova import log
from kilonova.conductor import build, server_volume_ends, shelve
from kilonova.conductor.parts import Parts
from kilonova.domain.actions import ACTIONS
from kilonova.domain.clock import now
from kilonova.domain.errors import KilonovaError, NoValidHost, StaleEpoch, Unavailable
from kilonova.domain.hosts import builds_topic, topic
from kilonova.domain.images import ImageStatus
from kilonova.domain.messages import PerformOperation, Work
from kilonova.domain.servers import PowerState, VmState
from kilonova.engine import lease
from kilonova.store import block_devices, images, operations, servers
from kilonova.store.database import Row
from kilonova.store.repeat import repeated

_log = log.get("conductor")


def perform_action(parts: Parts, message: PerformOperation) -> None:
    """Hand an action to its host. The lease and the deadline see to a host that does not answer."""
    work = lease.take(parts.db, message.operation_id, parts.name, parts.config.operations.lease)
    if work is None:
        return
    with log.bound(operation=work.id, server=work.server_id):
        try:
            if work.host is None:
                _place(parts, work)
            else:
                hand_over(parts, work, "perform_action")
        except StaleEpoch:
            _log.info("action_moved_on")


def _place(parts: Parts, work: Row) -> None:
    """Of a server that is on no host: to one, or to its end."""
    began = now()
    try:
        tell(parts, shelve.place(parts, work), "perform_action")
    except StaleEpoch:
        raise
    except Unavailable as error:
        build.postpone(parts, work, error)
    except KilonovaError as error:
        if isinstance(error, NoValidHost) and build.may_report_soon(parts, error, began):
            build.postpone(parts, work, error)
            return
        _log.warning("action_failed", error=error.message)
        parts.faults.reach(f"{work.kind}.end_in_error.before")
        with parts.db.write() as conn:
            end_in_error(conn, parts, work, error.message, error.details)


@repeated
def hand_over(parts: Parts, work: Row, method: str) -> None:
    """The operation is the host's from here; tell the host."""
    parts.faults.reach(f"{work.kind}.hand_over.before")
    with parts.db.write() as conn:
        lease.hand_to_host(conn, work, work.host, parts.config.operations.lease)
    tell(parts, work, method)


def tell(parts: Parts, work: Row, method: str) -> None:
    """The host that has the operation. If the word is lost, its lease runs out."""
    parts.faults.reach(f"{work.kind}.hand_over.after")
    with parts.db.read() as conn:
        server = servers.for_host(conn, work.server_id)
        has_volumes = bool(block_devices.volumes_of(conn, [work.server_id]))
    rule = ACTIONS.get(work.kind)
    parts.bus.cast(
        builds_topic(work.host) if rule is not None and rule.moves_disks else topic(work.host),
        method,
        Work(
            operation_id=work.id,
            epoch=work.epoch,
            kind=work.kind,
            server_id=work.server_id,
            request_id=work.request_id,
            deadline=work.deadline,
            lease=parts.config.operations.lease,
            spec=server.spec,
            vifs=server.vifs,
            has_volumes=has_volumes,
            payload=work.payload,
        ),
    )


def end(conn: sa.Connection, parts: Parts, work: Row, power_state: PowerState) -> None:
    """An action that went well."""
    payload = _payload(conn, work)
    lease.close(conn, work, operations.DONE)
    values: dict[str, Any] = {"task_state": None, "power_state": power_state, "fault": None}
    if (goal := payload.get("goal", ACTIONS[work.kind].goal)) is not None:
        values["vm_state"] = goal
    if work.kind == "rebuild":
        values["launched_at"] = now()
        server_volume_ends.complete_all(conn, parts, work.server_id)
    if work.kind == "shelve":
        values |= {"shelved_image_id": payload.get("image_id"), "shelved_at": now()}
    if goal == VmState.SHELVED_OFFLOADED:
        values |= shelve.left(conn, parts, work.server_id)
    if work.kind == "unshelve":
        values |= shelve.came_back(conn, parts, work.server_id)
    if work.kind == "create_backup":
        _rotate(conn, work, payload)
    if "snapshots" in payload:
        images.activate_empty(conn, payload["image_id"])
    servers.change(conn, work.server_id, **values)


def end_in_error(conn: sa.Connection, parts: Parts, work: Row, message: str, details: object = None) -> None:
    """An action that failed: the server keeps its place. What does no harm leaves it as it was; else it is in
    ERROR, with a fault that says what happened."""
    payload = _payload(conn, work)
    lease.close(conn, work, operations.FAILED, message)
    if image_id := payload.get("image_id"):
        images.give_up(conn, image_id)
    for snapshot_id in payload.get("snapshots", ()):
        parts.volumes.discard_snapshot(snapshot_id)
    values: dict[str, Any] = {"task_state": None}
    if work.kind == "unshelve" and "to_host" in payload:
        values |= shelve.left(conn, parts, work.server_id)
    rule = ACTIONS.get(work.kind)
    if rule is None or not rule.harmless:
        fault = {"code": 500, "message": message, "details": details, "created": now()}
        values |= {"vm_state": VmState.ERROR, "fault": fault}
    servers.change(conn, work.server_id, **values)


def _payload(conn: sa.Connection, work: Row) -> dict[str, Any]:
    """Before its end takes it away."""
    found = operations.get(conn, work.id)
    return {} if found is None else dict(found.payload)


def _rotate(conn: sa.Connection, work: Row, payload: dict[str, Any]) -> None:
    """As many backups of the kind are left as were asked for, the newest; none if that was 0."""
    owner, kind = payload["owner"], payload["backup_type"]
    for image_id in images.backups(conn, owner, work.server_id, kind)[payload["rotation"] :]:
        images.change_status(conn, image_id, [ImageStatus.ACTIVE], ImageStatus.PENDING_DELETE)
