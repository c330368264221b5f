"""What computes may ask of the database: each message says which host speaks, and is checked against it.

A compute can change only operations that it owns and servers that are placed on it (invariant 8); a stale
epoch is refused (invariant 6).
"""

from __future__ import annotations

import sqlalchemy as sa
from msgspec import structs

from kilonova import log
from kilonova.conductor import actions, build, delete, interfaces, server_volume_ends, server_volumes
from kilonova.conductor.parts import Parts
from kilonova.domain.block_devices import with_disks
from kilonova.domain.clock import now
from kilonova.domain.errors import BadRequest, Conflict, NotFound, StaleEpoch
from kilonova.domain.messages import (
    Activate,
    AllocateNetworks,
    Finished,
    FromHost,
    Held,
    NetworkQuery,
    Nothing,
    OperationRef,
    PerformOperation,
    PowerStates,
    Progress,
    RenewLeases,
    ServerQuery,
    ServerRecord,
    SetPassword,
    StepRecord,
    Vifs,
)
from kilonova.domain.network import NetworkState
from kilonova.domain.routers import HostRouters
from kilonova.domain.servers import GuestMetadata, PowerState, VmState
from kilonova.domain.servers import guest_metadata as metadata_of
from kilonova.engine import lease
from kilonova.store import block_devices, hosts, operations, server_passwords, servers
from kilonova.store.database import Row
from kilonova.store.repeat import repeated

_log = log.get("conductor")


@repeated
def progress(parts: Parts, message: Progress) -> Nothing:
    """A step's boundary: record what ended and began, renew the lease, show the task state."""
    with parts.db.write() as conn:
        work = _owned(conn, message, lease_until=now() + parts.config.operations.lease)
        _record(conn, work, message.steps)
        if message.task_state is not None:
            servers.change(conn, work.server_id, task_state=message.task_state)
    parts.faults.reach(f"{work.kind}.progress.after")
    return Nothing()


@repeated
def allocate_networks(parts: Parts, message: AllocateNetworks) -> Vifs:
    """Ports for the server of this build, bound to the host that asks.

    One transaction: nobody takes the operation over, and the server is not deleted, while they are made.
    """
    parts.faults.reach("build.set_vifs.before")
    with parts.db.write() as conn:
        work = _owned(conn, message)
        _check_kind(work, "build")
        server = servers.for_host(conn, work.server_id)
        spec, zone = server.spec, server.availability_zone or ""
        vifs = parts.network.allocate_for_instance(
            work.server_id,
            spec.project_id,
            spec.hostname,
            message.host,
            zone,
            spec.networks or [],
            spec.security_groups,
        )
        servers.set_vifs(conn, work.server_id, vifs)
        state = None
        if message.follows:
            state = parts.network.state(message.host, [vif.port_id for vif in vifs])
    parts.faults.reach("build.set_vifs.after")
    return Vifs(vifs=vifs, state=state)


@repeated
def activate(parts: Parts, message: Activate) -> Nothing:
    """The commit of a build: ACTIVE, and the operation is done. Only after this may the guest run.

    Asked again, because the answer was lost, it says yes again. A database that may crash alone, without the
    guests, must not forget it: there it waits for the disk, and with it all that the build wrote before.
    """
    with parts.db.write(durable=parts.db.engine.name == "postgresql") as conn:
        try:
            work = _owned(conn, message, **lease.ending(operations.DONE))
        except StaleEpoch:
            _check_kind(_looked_up(conn, message, operations.DONE), "build")
            return Nothing()
        _check_kind(work, "build")
        _record(conn, work, message.steps)
        lease.end_lost_steps(conn, work)
        servers.change(
            conn, work.server_id, vm_state=VmState.ACTIVE, task_state=None, launched_at=now(), fault=None
        )
        hosts.count_build(conn, message.host, failed=False)
    _log.info("server_active", operation=work.id, server=work.server_id, host=message.host)
    parts.faults.reach("build.activate.after")
    return Nothing()


@repeated
def finished(parts: Parts, message: Finished) -> Nothing:
    """The end of a host's work, good or bad."""
    ends = {"build": _build_finished, "delete": _delete_finished}
    ends |= dict.fromkeys(interfaces.KINDS, _interface_finished)
    ends |= dict.fromkeys(server_volume_ends.KINDS, _volume_finished)
    ends.get(message.kind, _action_finished)(parts, message)
    parts.faults.reach(f"{message.kind}.finished.after")
    return Nothing()


def _build_finished(parts: Parts, message: Finished) -> None:
    error = message.error or "the host gave no reason"
    with parts.db.write() as conn:
        done = operations.get(conn, message.operation_id)
        if done is not None and done.state == operations.DONE:
            _after_activation(conn, parts, done, message)
            return
        work = _owned(conn, message)
        _check_kind(work, message.kind)
        _record(conn, work, message.steps)
        again = message.retry and build.try_elsewhere(conn, parts, work, error)
        if not again:
            # Ours until its ports are free; if we die meanwhile, the host tries once more.
            work = lease.kept(conn, work, owner=parts.name)
    if again:
        parts.faults.reach("build.try_elsewhere.after")
        parts.bus.cast("conductor", "build_instances", PerformOperation(operation_id=work.id))
    else:
        parts.faults.reach("build.fail.before")
        build.fail(parts, work, error, message.details)


def _after_activation(conn: sa.Connection, parts: Parts, work: Row, message: Finished) -> None:
    """The guest was let run after the commit: note how that went, unless something newer has begun."""
    _check_mine(work, message)
    _check_kind(work, "build")
    _record(conn, work, message.steps)
    if message.error is None:
        parts.network.port_status([work.server_id], active=True)
    active = frozenset({VmState.ACTIVE})
    values: dict[str, object] = {"power_state": message.power_state}
    if message.error is not None:
        fault = {"code": 500, "message": message.error, "details": message.details, "created": now()}
        values |= {"vm_state": VmState.ERROR, "fault": fault}
    servers.change(conn, work.server_id, if_vm_state=active, if_idle=True, **values)


def _delete_finished(parts: Parts, message: Finished) -> None:
    parts.faults.reach("delete.deallocate_networks.before")
    with parts.db.write() as conn:
        work = _owned(conn, message)
        _check_kind(work, message.kind)
        _record(conn, work, message.steps)
        if message.error is None:
            delete.finish_records(conn, parts, work)
            parts.faults.reach("delete.deallocate_networks.after")
        else:
            # It stays open: the sweeper tries again soon, until the deadline.
            lease.postpone(conn, work, message.error)


def _action_finished(parts: Parts, message: Finished) -> None:
    with parts.db.write() as conn:
        work = _owned(conn, message)
        _check_kind(work, message.kind)
        _record(conn, work, message.steps)
        if message.error is not None:
            actions.end_in_error(conn, parts, work, message.error, message.details)
        else:
            actions.end(conn, parts, work, message.power_state)


def _interface_finished(parts: Parts, message: Finished) -> None:
    with parts.db.write() as conn:
        work = _owned(conn, message)
        _check_kind(work, message.kind)
        _record(conn, work, message.steps)
        interfaces.end(conn, parts, work, message.error)


def _volume_finished(parts: Parts, message: Finished) -> None:
    with parts.db.write() as conn:
        work = _owned(conn, message)
        _check_kind(work, message.kind)
        _record(conn, work, message.steps)
        server_volume_ends.end(conn, parts, work, message.error)


@repeated
def renew_leases(parts: Parts, message: RenewLeases) -> Held:
    """Which of its operations the host still holds; the leases of those are renewed."""
    lease = parts.config.operations.lease
    with parts.db.write() as conn:
        kept = operations.renew(conn, message.held, operations.agent(message.host), now() + lease)
    return Held(operation_ids=sorted(kept), lease=lease)


_SHOWS = {
    PowerState.RUNNING: VmState.ACTIVE,
    PowerState.PAUSED: VmState.PAUSED,
    PowerState.SHUTDOWN: VmState.STOPPED,
    PowerState.CRASHED: VmState.STOPPED,
}
_FOLLOWS = frozenset({VmState.ACTIVE, VmState.PAUSED, VmState.STOPPED})


@repeated
def power_states(parts: Parts, message: PowerStates) -> None:
    """What the guests of a host really do. A server that nothing is being done to follows its guest.

    What was seen before the host last did something to the server is old, however late it arrives.
    """
    with parts.db.write() as conn:
        for row in servers.on_host(conn, message.host, list(message.states)):
            state = message.states[row.id]
            if row.task_state is not None or state == row.power_state or row.vm_state not in _FOLLOWS:
                continue
            if message.observed_at <= operations.last_step_end(conn, row.id, message.host):
                continue
            shown = _SHOWS.get(state, VmState(row.vm_state))
            servers.change(
                conn,
                row.id,
                if_vm_state=frozenset({VmState(row.vm_state)}),
                if_idle=True,
                power_state=state,
                vm_state=shown,
            )
            _log.info("power_state", server=row.id, was=row.power_state, now=int(state), vm_state=shown)


def guest_metadata(parts: Parts, message: ServerQuery) -> GuestMetadata:
    """What the metadata service of this host may tell the guest. NotFound unless it is placed there."""
    with parts.db.read() as conn:
        server = servers.for_host(conn, message.server_id)
        if server.host != message.host:
            raise NotFound(f"Instance {message.server_id} is not on {message.host}")
        password = server_passwords.get(conn, message.server_id)
        devices = block_devices.of_server(conn, message.server_id)
    spec = structs.replace(server.spec, name=server.name, hostname=server.hostname)
    told = metadata_of(spec, server.vifs, server.availability_zone, server.metadata)
    if devices:
        told = with_disks(told, devices)
    groups = parts.network.security_group_names([message.server_id]).get(message.server_id, [])
    return structs.replace(
        told, password=password, reservation_id=server.reservation_id, security_groups=groups
    )


@repeated
def set_password(parts: Parts, message: SetPassword) -> Nothing:
    """What a guest told its metadata service. Conflict if it had told one; NotFound if it is not there."""
    with parts.db.write() as conn:
        if servers.for_host(conn, message.server_id).host != message.host:
            raise NotFound(f"Instance {message.server_id} is not on {message.host}")
        if not server_passwords.put(conn, message.server_id, message.password):
            raise Conflict("The password was told already.")
    return Nothing()


_WHOLE = (VmState.ACTIVE, VmState.PAUSED)
"""In these a guest that is on has all of its server's volumes: not so one that is rescued."""


def server_record(parts: Parts, message: ServerQuery) -> ServerRecord:
    """For the host that the server is placed on; NotFound for all others."""
    with parts.db.read() as conn:
        server = servers.for_host(conn, message.server_id)
        if server.host != message.host:
            raise NotFound(f"Instance {message.server_id} is not on {message.host}")
        volumes = server_volumes.sizes(parts, conn, message.server_id)
        whole = servers.vm_state(conn, message.server_id) in _WHOLE
        busy = operations.open_of_server(conn, message.server_id) is not None
    return ServerRecord(spec=server.spec, vifs=server.vifs, volumes=volumes, whole=whole and not busy)


def network_state(parts: Parts, message: NetworkQuery) -> NetworkState:
    """What holds now for ports of the host that asks: it reads only the security groups of these, and where
    the networks are that it has a part of."""
    return parts.network.state(message.host, message.ports, message.networks)


def host_routers(parts: Parts, message: FromHost) -> HostRouters:
    """The routers of the host that asks, and which gateways are routers' on the networks that it serves."""
    return parts.network.host_routers(message.host)


Words = OperationRef | Progress | Finished | Activate
"""What a host says of one operation."""


def _looked_up(conn: sa.Connection, message: Words, state: str) -> Row:
    """The operation, unchanged, if it is in that state and the host that speaks has it in this epoch."""
    work = operations.get(conn, message.operation_id)
    if work is None or work.state != state:
        raise StaleEpoch(f"operation {message.operation_id} has moved on")
    _check_mine(work, message)
    return work


def _check_mine(work: Row, message: Words) -> None:
    """StaleEpoch unless the host that speaks owns the operation, or did when it ended, in this epoch."""
    if work.epoch != message.epoch or work.owner != operations.agent(message.host):
        raise StaleEpoch(f"operation {work.id} has moved on, or is not {message.host}'s")


def _check_kind(work: Row, kind: str) -> None:
    """BadRequest if the host speaks of it as of another kind: it would end as what it is not."""
    if work.kind != kind:
        raise BadRequest(f"operation {work.id} is a {work.kind}, not a {kind}")


def _owned(conn: sa.Connection, message: Words, /, **values: object) -> Row:
    """The operation, if the host that speaks owns it in this epoch."""
    owner = operations.agent(message.host)
    return lease.held(conn, message.operation_id, message.epoch, owner, **values)


def _record(conn: sa.Connection, work: Row, steps: list[StepRecord]) -> None:
    operations.put_steps(conn, work.id, work.epoch, work.host, steps)
