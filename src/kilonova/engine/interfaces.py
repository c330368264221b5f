"""How a NIC comes to a server that exists, and leaves it: accepted like every operation, in one transaction.

An attach is answered when it is done (Nova's is), so who accepts it gives it to the host by a call and waits.
If the call is lost the operation goes on as all others do: its lease runs out, and the sweeper sees it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial

import msgspec
import sqlalchemy as sa

from kilonova.bus.base import Bus
from kilonova.config import Config
from kilonova.domain import actions
from kilonova.domain.context import RequestContext
from kilonova.domain.errors import BuildFailed, NotFound, StillUnderWay, Unavailable
from kilonova.domain.hosts import topic
from kilonova.domain.messages import Nothing, ServerRef, Work
from kilonova.domain.servers import RequestedNetwork
from kilonova.engine.accept import accept_for_host, refuse_busy, refuse_locked, wrong_state
from kilonova.engine.faults import NO_FAULTS, FaultPoints
from kilonova.network.base import NetworkService, Seat
from kilonova.store import hosts, operations, servers
from kilonova.store.database import Database, Row, after_commit

ATTACHED_WITHIN = 55.0
"""Seconds for a host to say that the NIC is there; it takes a tenth of one. Clients wait for a minute."""
DETACHED_WITHIN = 5.0
"""Seconds for the guest to let go of it, before the caller is told that it goes on."""


class Parts(msgspec.Struct, frozen=True):
    """What these functions work with."""

    db: Database
    bus: Bus
    config: Config
    network: NetworkService
    faults: FaultPoints = NO_FAULTS


def attach(parts: Parts, context: RequestContext, server_id: str, asked: RequestedNetwork) -> str:
    """One more NIC: the id of its port, when the guest has it.

    NotFound, BadRequest, Conflict, QuotaExceeded, and Unavailable for a host that is down: nothing was done.
    BuildFailed: the host could not, and all is as before. StillUnderWay: it goes on.
    """
    with parts.db.write(durable=True) as conn:
        server = _ready(conn, context, server_id, actions.ATTACH_INTERFACE, for_update=False)
        if not hosts.is_up(conn, server.host, parts.config.compute.service_down_time):
            raise Unavailable(f"The host of instance {server_id} does not answer now")
        port_id = parts.network.attach(context, _seat(server), asked)
        # Ports come before their server in the order of locks (store/database.py): it may have changed.
        if _ready(conn, context, server_id, actions.ATTACH_INTERFACE).host != server.host:
            raise wrong_state(server_id, actions.ATTACH_INTERFACE, server)
        follow(conn, parts.network, server_id)
        work = _accept(conn, parts, context, server, actions.ATTACH_INTERFACE, port_id)
    _hand_over(parts, server.host, work, ATTACHED_WITHIN)
    _check_done(parts, work)
    return port_id


def detach(parts: Parts, context: RequestContext, server_id: str, port_id: str) -> None:
    """Take a NIC away. Mostly that is done when this returns; the guest may take its time.

    NotFound if the server has no such port; Conflict.
    """
    with parts.db.write(durable=True) as conn:
        server = _ready(conn, context, server_id, actions.DETACH_INTERFACE)
        if all(vif.port_id != port_id for vif in parts.network.vifs([server_id])[server_id]):
            raise NotFound(f"Port {port_id} is not attached to instance {server_id}.")
        work = _accept(conn, parts, context, server, actions.DETACH_INTERFACE, port_id)
    _hand_over(parts, server.host, work, DETACHED_WITHIN)


def refresh(parts: Parts, server_id: str) -> None:
    """The server's record is read anew from its ports, and the host compares the guest's NICs with it."""
    _change(parts, server_id, lambda _network: None)


def forget(parts: Parts, server_id: str, port_id: str) -> None:
    """The port is none of the server's any more, whatever the guest says; nothing if it was none."""
    _change(parts, server_id, lambda network: network.detach(server_id, port_id))


def readdress(
    parts: Parts, context: RequestContext, server_id: str, change: Callable[[NetworkService], None]
) -> None:
    """Change the addresses of a server's ports; the host follows. Conflict if it is locked."""
    with parts.db.write() as conn:
        refuse_locked(context, server_id, servers.state(conn, server_id))
        _change(parts, server_id, change)
        refuse_locked(context, server_id, servers.state(conn, server_id))


def _change(parts: Parts, server_id: str, change: Callable[[NetworkService], None]) -> None:
    """One transaction; then the host is told. If that is lost, it sees for itself within a minute."""
    with parts.db.write() as conn:
        change(parts.network)
        server = servers.state(conn, server_id, for_update=True)
        follow(conn, parts.network, server_id)
        if server.host is not None:
            after_commit(conn, partial(_tell, parts, server.host, server_id))


def _tell(parts: Parts, host: str, server_id: str) -> None:
    parts.faults.reach("refresh_interfaces.accept.after")
    look_again(parts.bus, host, server_id)
    parts.faults.reach("refresh_interfaces.ring.after")


def follow(conn: sa.Connection, network: NetworkService, server_id: str) -> None:
    """The server's record has the NICs that its ports are. Nothing for one that is gone."""
    if servers.lock(conn, server_id):  # who changes another of its ports has committed, or comes after us
        servers.set_vifs(conn, server_id, network.vifs([server_id])[server_id])


def look_again(bus: Bus, host: str, server_id: str) -> None:
    """The host compares the guest's NICs with the record. If this is lost, it does so within a minute."""
    bus.cast(topic(host), "refresh_interfaces", ServerRef(server_id=server_id))


def _accept(
    conn: sa.Connection, parts: Parts, context: RequestContext, server: Row, action: str, port_id: str
) -> Work:
    timeout = parts.config.operations.action_timeout
    return accept_for_host(conn, parts.config, context, server, action, timeout, {"port_id": port_id})


def _hand_over(parts: Parts, host: str, work: Work, timeout: float) -> None:
    """Returns when the host is done with it, or has not answered in time: the record knows what was done."""
    parts.faults.reach(f"{work.kind}.accept.after")
    with suppress(Unavailable):
        parts.bus.call(topic(host), "change_interfaces", work, Nothing, timeout=timeout)
    parts.faults.reach(f"{work.kind}.call.after")


def _ready(
    conn: sa.Connection, context: RequestContext, server_id: str, action: str, for_update: bool = True
) -> Row:
    """The server, locked, if its NICs may change now."""
    server = servers.get(conn, server_id, for_update=for_update)
    refuse_locked(context, server_id, server)
    if server.task_state is not None or server.vm_state not in actions.INTERFACES_CHANGE_IN:
        raise wrong_state(server_id, action, server)
    refuse_busy(conn, server_id, action)
    if server.host is None:
        raise wrong_state(server_id, action, server)
    return server


def _seat(server: Row) -> Seat:
    return Seat(
        server_id=server.id,
        project_id=server.project_id,
        hostname=server.hostname,
        host=server.host,
        availability_zone=server.availability_zone or "",
    )


def _check_done(parts: Parts, work: Work) -> None:
    with parts.db.read() as conn:
        row = operations.get(conn, work.operation_id)
    if row is None or row.state == operations.OPEN:
        raise StillUnderWay(
            f"The host of instance {work.server_id} has not said yet that the interface is attached; its "
            "list of interfaces and of actions will tell."
        )
    if row.state != operations.DONE:
        raise BuildFailed(
            f"Failed to attach network adapter device to {work.server_id}: {row.message or 'cut off'}"
        )
