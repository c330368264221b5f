"""How many of each thing a project may have. Checked in the transaction that makes them."""

from __future__ import annotations

import sqlalchemy as sa

from kilonova.config import Config
from kilonova.network.builtin.errors import OverQuota
from kilonova.store import network_quotas as store

RESOURCES = (
    "network",
    "subnet",
    "port",
    "router",
    "floatingip",
    "security_group",
    "security_group_rule",
    "rbac_policy",
    "subnetpool",
)


def defaults(config: Config) -> dict[str, int]:
    return {name: getattr(config.network, f"quota_{name}") for name in RESOURCES}


def limits(conn: sa.Connection, config: Config, project_id: str) -> dict[str, int]:
    return defaults(config) | store.of(conn, project_id)


def check(
    conn: sa.Connection,
    config: Config,
    project_id: str,
    resource: str,
    count: int = 1,
    for_update: bool = True,
) -> None:
    """OverQuota if the project may not have ``count`` more, which this transaction makes."""
    if for_update:
        store.lock(conn, project_id, resource)
    room = store.room(conn, project_id, resource, defaults(config)[resource])
    if room is not None and room < count:
        raise OverQuota(f"Quota exceeded for resources: ['{resource}'].")
