"""delete_instance: nothing of a server is left on this host."""

from __future__ import annotations

from kilonova.compute.journal import Journal
from kilonova.compute.parts import Parts
from kilonova.domain.messages import Work
from kilonova.domain.servers import PowerState


def delete_instance(parts: Parts, work: Work, journal: Journal) -> PowerState:
    with journal.step("destroy"):
        parts.driver.destroy(work.server_id)
    if work.vifs or ports_of(parts, work.server_id):
        with journal.step("unplug_vifs"):
            unplug_all(parts, work.server_id)
    return PowerState.NOSTATE


def remove(parts: Parts, server_id: str) -> None:
    """The same without a journal, for what no record knows."""
    parts.driver.destroy(server_id)
    unplug_all(parts, server_id)


def unplug_all(parts: Parts, server_id: str) -> None:
    """Every port of the server that is on this host, whatever the records say."""
    for port_id in ports_of(parts, server_id):
        parts.network.unplug(port_id)


def ports_of(parts: Parts, server_id: str) -> list[str]:
    return [port_id for port_id, vif in parts.network.plugged().items() if vif.server_id == server_id]
