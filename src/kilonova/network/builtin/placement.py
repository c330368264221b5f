"""Which host a router is on: one that is up, with the fewest routers. It stays there while that is up."""

from __future__ import annotations

import sqlalchemy as sa

from kilonova.config import Config
from kilonova.domain.routers import Router
from kilonova.store import routers as store


def place(conn: sa.Connection, config: Config, router: Router) -> None:
    """The router, which has its first port now, has a host, if there is one."""
    if router.host:
        return
    host = store.pick_host(conn, config.compute.service_down_time)
    if host:
        store.move(conn, router.id, "", host)
