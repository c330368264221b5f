"""Which host a router is on, and which hosts are told when it changes.

A router gets a host with its first port: one that is up, with the fewest routers, in one of the
zones that were asked for. It stays there while that is up, unless that says that it cannot make it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import sqlalchemy as sa

from kilonova.config import Config
from kilonova.domain.routers import Router
from kilonova.network.builtin.changes import Change, changed
from kilonova.store import ports, router_places
from kilonova.store import routers as store


def place(conn: sa.Connection, config: Config, router: Router) -> None:
    """The router, which has its first port now, has a host, if there is one."""
    if router.host:
        return
    host = _pick(conn, config, router)
    if host and store.move(conn, router.id, "", host):
        tell_inside(conn, router.id)


def _pick(conn: sa.Connection, config: Config, router: Router) -> str:
    refused = router_places.refusing(conn, router.id)
    zones = router.availability_zone_hints or ()
    return router_places.pick_host(conn, config.compute.service_down_time, zones, refused)


def homeless(conn: sa.Connection, silence: float) -> list[Router]:
    """Routers with ports whose host is none, was silent for so many seconds, or cannot make them."""
    return store.homeless(conn, silence)


def rehome(conn: sa.Connection, config: Config, silence: float) -> None:
    """They have a host, if one is up that may make them. The old one, should it live, hears that it has them
    no more. One that every host refuses stays where it is, goes on to be tried there, and is DOWN."""
    for router in homeless(conn, silence):
        host = _pick(conn, config, router)
        if host and host != router.host and store.move(conn, router.id, router.host, host):
            _tell(conn, {router.host, host})
            tell_inside(conn, router.id)


def tell(conn: sa.Connection, router_ids: Iterable[str], network_ids: Sequence[str] = ()) -> None:
    """These routers are not as they were, nor, perhaps, who has the gateways of these networks."""
    _tell(conn, {*store.hosts_of(conn, sorted(router_ids)), *ports.hosts_of(conn, network_ids)})
    changed(conn, Change(networks=network_ids))


def tell_inside(conn: sa.Connection, router_id: str) -> None:
    """The networks that this router joins are on other hosts than before."""
    inside = store.interfaces(conn, [router_id])
    changed(conn, Change(networks={port.network_id for port in inside}))


def tell_network(conn: sa.Connection, network_id: str) -> None:
    """A network, or its subnets, are not as they were: for the routers that are on it."""
    _tell(conn, set(store.hosts_on(conn, network_id)))


def _tell(conn: sa.Connection, hosts: set[str]) -> None:
    changed(conn, Change(hosts=hosts - {""}))
