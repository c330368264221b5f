"""How a request becomes an operation: one transaction, then the bus is rung (invariant 1).

The API calls these after it has checked the request. When one returns, the request is on the disk and will
end, whatever dies from here on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgspec
import sqlalchemy as sa
from msgspec import structs

from kilonova.bus.base import Bus
from kilonova.config import Config
from kilonova.domain.actions import ACTIONS, Action
from kilonova.domain.block_devices import BlockDevice
from kilonova.domain.clock import now
from kilonova.domain.context import RequestContext
from kilonova.domain.errors import Conflict
from kilonova.domain.messages import PerformOperation, Work
from kilonova.domain.servers import BuildSpec, TaskState, VmState
from kilonova.engine.faults import NO_FAULTS, FaultPoints
from kilonova.store import block_devices, images, operations, servers, usage
from kilonova.store.database import Database, Row, after_commit
from kilonova.volume.base import VolumeService


class NewServer(msgspec.Struct, frozen=True, kw_only=True):
    """A server to be: what hosts need (``spec``) and what only the API shows."""

    spec: BuildSpec
    devices: list[BlockDevice] = []
    """If they were asked for one by one."""
    description: str | None = None
    launch_index: int = 0
    tags: frozenset[str] = frozenset()
    auto_disk_config: bool = False
    access_ip_v4: str | None = None
    access_ip_v6: str | None = None


Prepare = Callable[[sa.Connection, Row], dict[str, Any]]
"""(transaction, the server's state) → what the operation must know."""


def create_servers(
    db: Database,
    bus: Bus,
    config: Config,
    context: RequestContext,
    new: Sequence[NewServer],
    reservation_id: str,
    quota: dict[str, int],
    volumes: VolumeService,
    faults: FaultPoints = NO_FAULTS,
) -> None:
    """Write the servers (BUILDING, SCHEDULING) and their operations, promise them the volumes that exist,
    take their quota, ring the conductor.

    QuotaExceeded, BadRequest (a volume is taken): nothing was written. ``quota``: limits of instances, cores
    and ram (MiB) of the project.
    """
    rows = [_server_row(server, reservation_id) for server in new]
    deadline = now() + config.operations.build_timeout
    works = [_build(server.spec, context, deadline) for server in new]
    with db.write(durable=True) as conn:
        for server in new:
            for device in server.devices:
                if device.volume_id and device.attachment_id:
                    volumes.reserve(context, device.volume_id, server.spec.server_id, device.attachment_id)
        servers.insert(conn, rows)
        servers.insert_tags(conn, {server.spec.server_id: server.tags for server in new})
        block_devices.insert(conn, {server.spec.server_id: server.devices for server in new})
        operations.insert(conn, works)
        # Last: the project's other requests wait for this row.
        usage.claim(conn, rows[0]["project_id"], [server.spec.flavor for server in new], quota)
        after_commit(conn, partial(_ring, bus, faults, [work["id"] for work in works]))


def _ring(bus: Bus, faults: FaultPoints, accepted: Sequence[str]) -> None:
    faults.reach("build.accept.after")
    for operation_id in accepted:
        bus.cast("conductor", "build_instances", PerformOperation(operation_id=operation_id))
    faults.reach("build.ring.after")


def act(
    db: Database,
    bus: Bus,
    config: Config,
    context: RequestContext,
    server_id: str,
    action: str,
    payload: dict[str, Any] | None = None,
    faults: FaultPoints = NO_FAULTS,
    prepare: Prepare | None = None,
    before: Callable[[sa.Connection], None] | None = None,
) -> None:
    """Begin an action of domain.actions on a server that the caller may touch.

    NotFound if it is gone; Conflict (in Nova's words) if its state forbids the action now. ``prepare`` is
    called in the transaction, when nothing forbids it: what it returns is part of the payload. ``before``
    likewise, but before the server is locked: for what comes earlier in the order of locks
    (store/database.py), as volumes do.
    """
    rule = ACTIONS[action]
    with db.write(durable=True) as conn:
        if before is not None:
            _may_begin(conn, context, server_id, rule, for_update=False)
            before(conn)
        server = _may_begin(conn, context, server_id, rule)
        more = {} if prepare is None else prepare(conn, server)
        servers.change(conn, server_id, task_state=rule.task_state)
        limits = config.operations
        deadline = now() + (limits.copy_timeout if rule.moves_disks else limits.action_timeout)
        work = operations.new(action, rule.record, server_id, server.project_id, context, deadline)
        work |= {"host": server.host, "payload": {**(payload or {}), **more}}
        operations.insert(conn, [work])
    faults.reach(f"{action}.accept.after")
    bus.cast("conductor", "perform_action", PerformOperation(operation_id=work["id"]))
    faults.reach(f"{action}.ring.after")


def _may_begin(
    conn: sa.Connection, context: RequestContext, server_id: str, rule: Action, for_update: bool = True
) -> Row:
    server = servers.state(conn, server_id, for_update=for_update)
    refuse_locked(context, server_id, server)
    busy = server.task_state is not None and server.task_state not in rule.while_busy
    if busy or server.vm_state not in rule.vm_states or (server.host is None and rule.needs_host):
        raise wrong_state(server_id, rule.record, server)
    refuse_busy(conn, server_id, rule.record)
    return server


def delete_server(
    db: Database,
    bus: Bus,
    config: Config,
    context: RequestContext,
    server_id: str,
    faults: FaultPoints = NO_FAULTS,
) -> None:
    """Begin to delete: whatever is open for the server ends here. A second delete changes nothing."""
    with db.write(durable=True) as conn:
        operations.lock_open(conn, server_id)
        server = servers.state(conn, server_id, for_update=True)
        refuse_locked(context, server_id, server)
        if server.task_state == TaskState.DELETING:
            return
        supersede(conn, server_id, "The server is being deleted")
        servers.change(conn, server_id, task_state=TaskState.DELETING)
        deadline = now() + config.operations.action_timeout
        work = operations.new("delete", "delete", server_id, server.project_id, context, deadline)
        work["host"] = server.host
        operations.insert(conn, [work])
    faults.reach("delete.accept.after")
    bus.cast("conductor", "delete_instance", PerformOperation(operation_id=work["id"]))
    faults.reach("delete.ring.after")


def supersede(conn: sa.Connection, server_id: str, reason: str) -> None:
    """End what is open for a server, which was locked before, with what it would have left.

    Snapshots of its volumes go on without it, and with them the image that lists them.
    """
    doing = operations.open_of_server(conn, server_id)
    operations.supersede(conn, server_id, reason)
    if doing is None or not (image_id := doing.payload.get("image_id")):
        return
    if "snapshots" in doing.payload:
        images.activate_empty(conn, image_id)
    else:
        images.give_up(conn, image_id)


def _build(spec: BuildSpec, context: RequestContext, deadline: float) -> dict[str, Any]:
    work = operations.new("build", "create", spec.server_id, spec.project_id, context, deadline)
    if spec.admin_password is not None:
        work["payload"] = {"admin_password": spec.admin_password}
    return work


def record(conn: sa.Connection, context: RequestContext, server: Row, name: str) -> None:
    """The record of an action that the API did itself, at once (lock, resetState): it is done already."""
    work = operations.new(name, name, server.id, server.project_id, context, deadline=now())
    operations.insert(conn, [work | {"state": operations.DONE, "finished_at": work["created_at"]}])


def _server_row(server: NewServer, reservation_id: str) -> dict[str, Any]:
    spec = structs.replace(server.spec, admin_password=None, launch_index=server.launch_index)
    created = now()
    return {
        "id": spec.server_id,
        "project_id": spec.project_id,
        "user_id": spec.user_id,
        "name": spec.name,
        "hostname": spec.hostname,
        "description": server.description,
        "vm_state": VmState.BUILDING,
        "task_state": TaskState.SCHEDULING,
        "power_state": 0,
        "host": None,
        "availability_zone": spec.availability_zone,
        "flavor_id": spec.flavor.id,
        "flavor": spec.flavor,
        "image_id": spec.image.id if spec.image else None,
        "image": spec.image,
        "key_name": spec.key_name,
        "config_drive": spec.config_drive,
        "auto_disk_config": server.auto_disk_config,
        "access_ip_v4": server.access_ip_v4,
        "access_ip_v6": server.access_ip_v6,
        "pinned_availability_zone": spec.availability_zone,
        "scheduler_hints": spec.scheduler_hints,
        "metadata": spec.metadata,
        "vifs": [],
        "launch_index": server.launch_index,
        "reservation_id": reservation_id,
        "created_at": created,
        "updated_at": created,
        "user_data": spec.user_data,
        "spec": spec,
    }


def accept_for_host(
    conn: sa.Connection,
    config: Config,
    context: RequestContext,
    server: Row,
    action: str,
    timeout: float,
    payload: dict[str, str],
) -> Work:
    """An action that is the server's host's from the beginning, to be done within ``timeout`` seconds: what
    the host is given. No conductor takes it."""
    begun = now()
    row = operations.new(action, action, server.id, server.project_id, context, begun + timeout)
    row |= {"host": server.host, "owner": operations.agent(server.host), "epoch": 1}
    row |= {"lease_until": begun + config.operations.lease, "payload": payload}
    operations.insert(conn, [row])
    known = servers.for_host(conn, server.id)
    return Work(
        operation_id=row["id"],
        epoch=row["epoch"],
        kind=action,
        server_id=server.id,
        request_id=context.request_id,
        deadline=row["deadline"],
        lease=config.operations.lease,
        spec=known.spec,
        vifs=known.vifs,
        payload=payload,
    )


def refuse_locked(context: RequestContext, server_id: str, server: Any) -> None:
    """In the transaction that begins the operation: a lock that comes in between counts."""
    if server.locked_by is not None and not context.is_admin:
        raise Conflict(f"Instance {server_id} is locked")


def refuse_busy(conn: sa.Connection, server_id: str, action: str) -> None:
    """Conflict while something is done to the server that it shows no task state for: a NIC comes or goes."""
    doing = operations.open_of_server(conn, server_id)
    if doing is not None:
        raise Conflict(f"Cannot '{action}' instance {server_id} while its {doing.record} is under way")


def wrong_state(server_id: str, action: str, server: Any) -> Conflict:
    if server.task_state is not None:
        return Conflict(
            f"Cannot '{action}' instance {server_id} while it is in task_state {server.task_state}"
        )
    return Conflict(f"Cannot '{action}' instance {server_id} while it is in vm_state {server.vm_state}")
