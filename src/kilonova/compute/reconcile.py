"""Compare the host with the records: resume, adopt or remove (run at start, and where they are not alike).

What no record places here is removed. What is placed here and idle is adopted: its ports are plugged, a guest
that waits for a build's resume runs, its power state is told. What an operation is open for is left to that.
"""

from __future__ import annotations

from collections.abc import Callable

from kilonova import log
from kilonova.compute import interfaces, server_volumes
from kilonova.compute.delete import remove
from kilonova.compute.parts import Parts
from kilonova.compute.refresh import Learn, learn_of_new
from kilonova.compute.running import Running
from kilonova.domain.clock import now
from kilonova.domain.errors import KilonovaError, NotFound
from kilonova.domain.likeness import PLUGGED, Held, digest
from kilonova.domain.messages import (
    FromHost,
    HostServers,
    PlacedServer,
    PowerStates,
    ServerQuery,
    ServerRecord,
)
from kilonova.domain.network import Vif
from kilonova.domain.servers import GuestMetadata, PowerState, VmState

_log = log.get("reconcile")


def reconcile(parts: Parts, running: Running, learn: Learn, refresh: Callable[[str], None]) -> None:
    """One comparison. The host is looked at first: what is made after that has its record already.

    ``learn`` takes what is asked of ports that must be plugged, ``refresh`` the id of a server whose NICs are
    not those of its record.
    """
    guests = {guest.server_id for guest in parts.driver.guests()}
    present = parts.driver.leftovers() | guests | _plugged_servers(parts)
    records = parts.ask("host_servers", FromHost(host=parts.host), HostServers).servers
    for server_id in present - records.keys():
        _try(_remove, parts, running, server_id)
    for server_id, record in records.items():
        if not record.busy:
            _try(_adopt, parts, running, learn, refresh, server_id, record)


def likeness(parts: Parts) -> str:
    """What is on the host, as far as a comparison would look at it; empty if a guest waits for its start."""
    guests = {guest.server_id: guest for guest in parts.driver.guests()}
    if any(guest.awaits_start for guest in guests.values()):
        return ""
    vifs: dict[str, list[Vif]] = {}
    for vif in parts.network.plugged().values():
        if vif.server_id is not None:
            vifs.setdefault(vif.server_id, []).append(vif)
    states = dict.fromkeys(parts.driver.leftovers() | vifs.keys(), PowerState.SHUTDOWN)
    states |= {server_id: guest.power_state for server_id, guest in guests.items()}
    return digest(
        Held(server_id, state, vifs.get(server_id, []), parts.driver.volumes(server_id))
        for server_id, state in states.items()
    )


def is_placed_here(parts: Parts, server_id: str) -> bool:
    """Whether the records say now that the server is on this host."""
    try:
        parts.ask("guest_metadata", ServerQuery(host=parts.host, server_id=server_id), GuestMetadata)
    except NotFound:
        return False
    return True


def _plugged_servers(parts: Parts) -> set[str]:
    return {vif.server_id for vif in parts.network.plugged().values() if vif.server_id is not None}


def _remove(parts: Parts, running: Running, server_id: str) -> None:
    """The list may be old by now: the server may have been placed here (again) since."""
    with running.reserved(server_id) as free:
        if free and not is_placed_here(parts, server_id):
            _log.info("removing_leftover", server=server_id)
            remove(parts, server_id)


def _adopt(
    parts: Parts,
    running: Running,
    learn: Learn,
    refresh: Callable[[str], None],
    server_id: str,
    record: PlacedServer,
) -> None:
    with running.reserved(server_id) as free:
        if free:
            _adopt_in_turn(parts, learn, refresh, server_id, record)


def _adopt_in_turn(
    parts: Parts, learn: Learn, refresh: Callable[[str], None], server_id: str, record: PlacedServer
) -> None:
    seen = now()
    guest = parts.driver.guest(server_id)
    state = PowerState.SHUTDOWN if guest is None else guest.power_state
    vifs = record.vifs
    if guest is not None and state in PLUGGED:
        vifs = _vifs_now(parts, server_id, vifs)
        learn_of_new(parts, learn, vifs)
        for vif in vifs:
            parts.network.plug(vif)
    if guest is not None and guest.awaits_start and record.vm_state == VmState.ACTIVE:
        _log.info("resuming_build", server=server_id)
        parts.driver.resume_build(server_id)
        state = PowerState.RUNNING
    parts.driver.drop_snapshot(server_id)
    parts.driver.end_mirrors(server_id)
    if interfaces.differ(parts, server_id, vifs) or server_volumes.may_differ(
        parts, server_id, record.volumes
    ):
        refresh(server_id)
    message = PowerStates(host=parts.host, states={server_id: state}, observed_at=seen)
    parts.bus.cast("conductor", "power_states", message)


def _vifs_now(parts: Parts, server_id: str, vifs: list[Vif]) -> list[Vif]:
    """The list may be old by now, when something would be plugged by it: a port may have left the server, and
    its address be another's. NotFound: the server left this host."""
    plugged = parts.network.plugged()
    if all(vif.port_id in plugged and plugged[vif.port_id].wiring == vif.wiring for vif in vifs):
        return vifs
    query = ServerQuery(host=parts.host, server_id=server_id)
    return parts.ask("server_record", query, ServerRecord).vifs


def _try(function: Callable[..., None], *arguments: object) -> None:
    """One server's trouble is not the others'."""
    try:
        function(*arguments)
    except KilonovaError as error:
        _log.warning("reconcile_failed", what=function.__name__, error=error.message)
