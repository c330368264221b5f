"""NICs that come to a guest and leave it, running or not.

attach_interface: plug_vifs, then the guest gets its device. detach_interface: the guest lets go of its
device, then unplug_vifs. refresh_interfaces: the guest's NICs, and its volumes, are made to be those of the
record, whatever they were (a port was deleted or changed, an operation was cut off). Every one looks before
it acts.

No operation is behind refresh_interfaces: who is cut off in it does the rest when it compares the next time.

What a port lets pass is not compared here: refresh.py asks for that.
"""

from __future__ import annotations

from kilonova import log
from kilonova.cancel import Cancel
from kilonova.compute import server_volumes
from kilonova.compute.delete import ports_of
from kilonova.compute.journal import Journal
from kilonova.compute.parts import Parts
from kilonova.compute.refresh import Learn, learn_of_new
from kilonova.domain.actions import ATTACH_INTERFACE, DETACH_INTERFACE
from kilonova.domain.errors import BuildFailed, NotFound
from kilonova.domain.messages import ServerQuery, ServerRecord, Work
from kilonova.domain.network import Vif, tap_name
from kilonova.domain.servers import PowerState

KINDS = frozenset({ATTACH_INTERFACE, DETACH_INTERFACE})
_ACTIVE = (PowerState.RUNNING, PowerState.PAUSED)
_SOON = 5.0
"""Seconds that a guest has to let go of a NIC whose port is gone already: nobody waits for the answer."""

_log = log.get("compute")


def change_interfaces(parts: Parts, work: Work, journal: Journal, cancel: Cancel, learn: Learn) -> PowerState:
    """Do it; the guest's power state, which it leaves as it is."""
    guest = parts.driver.guest(work.server_id)
    if guest is None:
        raise NotFound(f"Instance {work.server_id} has no guest on this host.")
    if work.kind == ATTACH_INTERFACE:
        _attach(parts, work, journal, learn)
    else:
        _detach(parts, work, journal, cancel)
    return guest.power_state


def _attach(parts: Parts, work: Work, journal: Journal, learn: Learn) -> None:
    port_id = str(work.payload["port_id"])
    vif = next((vif for vif in work.vifs if vif.port_id == port_id), None)
    if vif is None:
        raise BuildFailed(f"Port {port_id} was deleted.")
    with journal.step("plug_vifs", undo=lambda: parts.network.unplug(port_id)):
        learn_of_new(parts, learn, [vif])
        parts.network.plug(vif)

    def take_back() -> None:
        parts.driver.detach_interface(work.server_id, vif.tap, _SOON, Cancel())

    with journal.step("attach_interface", undo=take_back):
        parts.driver.attach_interface(work.spec, vif)


def _detach(parts: Parts, work: Work, journal: Journal, cancel: Cancel) -> None:
    port_id = str(work.payload["port_id"])
    rules = parts.config.libvirt
    patience = rules.device_detach_attempts * rules.device_detach_timeout
    with journal.step("detach_interface"):
        parts.driver.detach_interface(work.server_id, tap_name(port_id), patience, cancel)
    with journal.step("unplug_vifs"):
        parts.network.unplug(port_id)


def refresh_interfaces(parts: Parts, server_id: str, learn: Learn) -> None:
    """The guest's NICs are those of the record. Nothing for a server that is not here."""
    try:
        record = parts.ask("server_record", ServerQuery(host=parts.host, server_id=server_id), ServerRecord)
    except NotFound:
        return
    _remove_strays(parts, server_id, record.vifs)
    active = _is_active(parts, server_id)
    if active:
        _add_missing(parts, record, learn)
    server_volumes.refresh_volumes(parts, record, active)


def differ(parts: Parts, server_id: str, vifs: list[Vif]) -> bool:
    """Whether the host has a NIC of the server's that the record has not, or its guest another one."""
    wanted = {vif.tap: vif.admin_state_up for vif in vifs}
    plugged = {tap_name(port_id) for port_id in ports_of(parts, server_id)}
    if plugged - wanted.keys():
        return True
    return _is_active(parts, server_id) and parts.driver.interfaces(server_id) != wanted


def _remove_strays(parts: Parts, server_id: str, vifs: list[Vif]) -> None:
    """First no traffic, since the address may be another's by now; then the device."""
    for port_id in ports_of(parts, server_id):
        if all(vif.port_id != port_id for vif in vifs):
            _log.info("port_left_its_server", port=port_id, server=server_id)
            parts.network.unplug(port_id)
            parts.faults.reach("refresh_interfaces.unplug_vifs.after")
    for tap in parts.driver.interfaces(server_id).keys() - {vif.tap for vif in vifs}:
        try:
            parts.driver.detach_interface(server_id, tap, _SOON, Cancel())
        except BuildFailed as error:
            _log.warning("guest_keeps_dead_interface", server=server_id, reason=error.message)
        parts.faults.reach("refresh_interfaces.detach_interface.after")


def _add_missing(parts: Parts, record: ServerRecord, learn: Learn) -> None:
    learn_of_new(parts, learn, record.vifs)
    server_id = record.spec.server_id
    plugged, links = parts.network.plugged(), parts.driver.interfaces(server_id)
    for vif in record.vifs:
        known = plugged.get(vif.port_id)
        if known is None or known.wiring != vif.wiring:
            parts.network.plug(vif)
            parts.faults.reach("refresh_interfaces.plug_vifs.after")
        if vif.tap not in links:
            parts.driver.attach_interface(record.spec, vif)
            parts.faults.reach("refresh_interfaces.attach_interface.after")
        elif links[vif.tap] != vif.admin_state_up:
            parts.driver.set_link(server_id, vif.tap, vif.admin_state_up)
            parts.faults.reach("refresh_interfaces.set_link.after")


def _is_active(parts: Parts, server_id: str) -> bool:
    guest = parts.driver.guest(server_id)
    return guest is not None and guest.power_state in _ACTIVE
