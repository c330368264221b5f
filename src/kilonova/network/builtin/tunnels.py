"""Networks that are on several hosts: what each must know of the others, and who is told when that changes.

Every function runs inside the caller's transaction. A host is told when the first guest of a network comes to
another one or the last one leaves it, not with each guest: hosts learn by themselves behind which of them a
MAC is. Of two transactions at the same moment, one that takes a host's last guest of a network away and one
that brings another, neither sees the other; then the hosts' comparison does, within a minute.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import sqlalchemy as sa

from kilonova.domain.network import NetworkTunnel, Port
from kilonova.network.builtin.changes import Change, changed
from kilonova.store import hosts
from kilonova.store import segments as store


def of_interest(conn: sa.Connection, host: str, network_ids: Iterable[str]) -> set[str]:
    """Those of the networks that the host may have tunnels of: none, if it takes none."""
    found = set(network_ids)
    return found if found and hosts.tunnel_address(conn, host) is not None else set()


def of_host(conn: sa.Connection, host: str, network_ids: Collection[str]) -> dict[str, NetworkTunnel]:
    """Network id → its tunnel, of those that are on that host and have an identifier (``unnumbered``)."""
    if not network_ids:
        return {}
    numbers = store.of_networks(conn, network_ids)
    found = {}
    for network_id, places in store.places(conn, network_ids).items():
        number = numbers.get(network_id)
        if host in places and number is not None:
            peers = sorted(address for other, address in places.items() if other != host)
            found[network_id] = NetworkTunnel(segmentation_id=number, peers=peers)
    return found


def unnumbered(conn: sa.Connection, network_ids: Collection[str]) -> list[str]:
    """Those of the networks that have no identifier."""
    return [key for key, number in store.of_networks(conn, network_ids).items() if number is None]


def come(conn: sa.Connection, host: str, network_ids: Collection[str]) -> None:
    """Guests of these networks come to the host now; called before their ports say so."""
    changed(conn, Change(networks=store.without_guests(conn, host, network_ids)))


def gone(conn: sa.Connection, ports: Sequence[Port]) -> None:
    """These ports have left their hosts; called when nothing says any more that they are there."""
    left: dict[str, set[str]] = {}
    for port in ports:
        if port.host and port.nic is not None:
            left.setdefault(port.host, set()).add(port.network_id)
    for host, network_ids in left.items():
        changed(conn, Change(networks=store.without_guests(conn, host, network_ids)))


def moved(conn: sa.Connection, host: str) -> None:
    """The host takes tunnels at another address than before."""
    changed(conn, Change(networks=store.on_host(conn, host)))
