"""GET /servers/{id}/diagnostics: what a guest used and moved, for admins. Its host is asked.

Since 2.48 in words that are the same for all hypervisors; before, in libvirt's as Nova told them.
"""

from __future__ import annotations

from typing import Any

from kilonova.api.compute import policy, queries
from kilonova.api.compute.server_access import find
from kilonova.api.compute.state import ComputeAPI
from kilonova.api.http import Reply, Request, Route
from kilonova.domain import hosts
from kilonova.domain.clock import now
from kilonova.domain.diagnostics import Diagnostics, DiskUse, NicUse
from kilonova.domain.errors import Conflict, Unavailable
from kilonova.domain.messages import Diagnosed, ServerRef
from kilonova.domain.servers import PowerState
from kilonova.store.database import Row

_RULE = "os-server-diagnostics"
_TIMEOUT = 30.0


def show(api: ComputeAPI, request: Request, server_id: str) -> Reply:
    """Conflict unless the guest runs."""
    queries.check(request)
    with api.db.read() as conn:
        server = find(conn, request.context, server_id, _RULE)
    policy.require_admin(request.context, _RULE)
    if server.host is None:
        raise Conflict(f"Instance {server_id} is not ready")
    if server.power_state != PowerState.RUNNING:
        raise Conflict(f"Cannot 'get_diagnostics' instance {server_id} while its guest does not run")
    topic, query = hosts.topic(server.host), ServerRef(server_id=server_id)
    try:
        found = api.bus.call(topic, "get_diagnostics", query, Diagnosed, timeout=_TIMEOUT).diagnostics
    except Unavailable as error:  # its words name the host
        raise Unavailable(f"The host of instance {server_id} does not answer now") from error
    return Reply(body=_view(server, found) if request.at_least(2, 48) else _old_view(found))


def _view(server: Row, found: Diagnostics) -> dict[str, Any]:
    """Memory in MiB; what no hypervisor here counts is null. ``uptime``: seconds since it was built."""
    return {
        "state": "running",
        "driver": found.driver,
        "hypervisor": found.hypervisor,
        "hypervisor_os": found.hypervisor_os,
        "uptime": None if server.launched_at is None else int(now() - server.launched_at),
        "config_drive": bool(server.config_drive),
        "num_cpus": len(found.cpus),
        "num_nics": len(found.nics),
        "num_disks": len(found.disks),
        "memory_details": {"maximum": _mib(found.memory_maximum), "used": _mib(found.memory_used)},
        "cpu_details": [{"id": cpu.id, "time": cpu.time, "utilisation": None} for cpu in found.cpus],
        "nic_details": [_nic(nic) for nic in found.nics],
        "disk_details": [_disk(disk) for disk in found.disks],
    }


def _mib(kib: int | None) -> int | None:
    return None if kib is None else kib // 1024


def _nic(nic: NicUse) -> dict[str, Any]:
    counted = {
        f"{way}_{what}": getattr(nic, f"{way}_{what}")
        for way in ("rx", "tx")
        for what in ("octets", "packets", "errors", "drop")
    }
    return {"mac_address": nic.mac, **counted, "rx_rate": None, "tx_rate": None}


def _disk(disk: DiskUse) -> dict[str, Any]:
    return {
        "read_bytes": disk.read_bytes,
        "read_requests": disk.read_requests,
        "write_bytes": disk.write_bytes,
        "write_requests": disk.write_requests,
        "errors_count": None,
    }


def _old_view(found: Diagnostics) -> dict[str, Any]:
    """Only what is known."""
    view: dict[str, Any] = {f"cpu{cpu.id}_time": cpu.time for cpu in found.cpus}
    for disk in found.disks:
        view |= {
            f"{disk.device}_read": disk.read_bytes,
            f"{disk.device}_read_req": disk.read_requests,
            f"{disk.device}_write": disk.write_bytes,
            f"{disk.device}_write_req": disk.write_requests,
        }
    for nic in found.nics:
        view |= {
            f"{nic.device}_rx": nic.rx_octets,
            f"{nic.device}_rx_packets": nic.rx_packets,
            f"{nic.device}_rx_errors": nic.rx_errors,
            f"{nic.device}_rx_drop": nic.rx_drop,
            f"{nic.device}_tx": nic.tx_octets,
            f"{nic.device}_tx_packets": nic.tx_packets,
            f"{nic.device}_tx_errors": nic.tx_errors,
            f"{nic.device}_tx_drop": nic.tx_drop,
        }
    view |= {"memory": found.memory_maximum, "memory-actual": found.memory_used}
    return {name: value for name, value in view.items() if value is not None}


ROUTES = [Route("GET", "/servers/{server_id}/diagnostics", show)]
