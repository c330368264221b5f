"""What hosts report: that they live, what they hold, and, when they begin, what they should have."""

from __future__ import annotations

from kilonova import log
from kilonova.conductor.parts import Parts
from kilonova.domain.messages import (
    FromHost,
    HostServers,
    Nothing,
    PerformOperation,
    PlacedServer,
    Ready,
    Report,
)
from kilonova.store import block_devices, hosts, operations, servers
from kilonova.store.repeat import repeated

_log = log.get("conductor")

METHOD_OF_KIND = {"build": "build_instances", "delete": "delete_instance"}
"""The conductor's method that takes an operation of this kind up; perform_action for all others."""


@repeated
def report(parts: Parts, message: Report) -> Nothing:
    """A sign of life and the inventory. An agent that has just begun owns nothing: what it owned is free."""
    zone = parts.config.default_availability_zone
    with parts.db.write() as conn:
        service_id = hosts.seen(conn, "nova-compute", message.host, zone)
        address = hosts.report(conn, service_id, message.host, message.report, parts.config.compute)
        if message.starting:
            operations.expire_leases(conn, message.host)
    if address.after != message.report.tunnel_address:
        # No address of IPv4 that others could send to, or another host's.
        _log.warning("tunnel_address_refused", host=message.host, address=message.report.tunnel_address)
    if address.moved:
        parts.network.host_moved(message.host)
    return Nothing()


def host_servers(parts: Parts, message: FromHost) -> HostServers:
    """What the records say is on the host that asks."""
    with parts.db.read() as conn:
        rows = servers.on_host(conn, message.host)
        busy = operations.busy_on_host(conn, message.host)
        volumes = block_devices.volumes_of(conn, [row.id for row in rows])
    return HostServers(
        servers={
            row.id: PlacedServer(
                vm_state=row.vm_state,
                task_state=row.task_state,
                vifs=row.vifs,
                busy=row.id in busy,
                volumes=[one.volume_id for one in volumes.get(row.id, ())],
            )
            for row in rows
        }
    )


@repeated
def ready(parts: Parts, message: Ready) -> Nothing:
    """A host has compared itself with the records and takes work: ring for all that waits for it.

    What was handed over since its first report, before it listened, was lost.
    """
    with parts.db.write() as conn:
        operations.expire_leases(conn, message.host, but=message.held)
        waiting = operations.open_on_host(conn, message.host)
    for work in waiting:
        method = METHOD_OF_KIND.get(work.kind, "perform_action")
        with log.bound(request_id=work.request_id):
            parts.bus.cast("conductor", method, PerformOperation(operation_id=work.id))
    return Nothing()
