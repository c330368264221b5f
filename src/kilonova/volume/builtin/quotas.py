"""What a project may have of volumes: taken in the transaction that makes them, counted there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import sqlalchemy as sa

from kilonova.config import Config
from kilonova.store import volume_quotas as store
from kilonova.volume.builtin.errors import OverQuota

COUNTED = ("volumes", "snapshots", "gigabytes")
PER_VOLUME = "per_volume_gigabytes"
NEVER = ("backups", "backup_gigabytes", "groups")
"""What Cinder has a limit of too, and there is none of here."""


def defaults(config: Config) -> dict[str, int]:
    options = config.volume
    return {
        "volumes": options.quota_volumes,
        "snapshots": options.quota_snapshots,
        "gigabytes": options.quota_gigabytes,
        PER_VOLUME: options.per_volume_size_limit,
    }


def limits(conn: sa.Connection, config: Config, project_id: str) -> dict[str, int]:
    """-1 is none. Those of types are there where one was set."""
    return defaults(config) | store.limits(conn, project_id)


def amounts(type_name: str, **more: int) -> Counter[str]:
    """Of ``volumes``, ``snapshots``, ``gigabytes``: what they are of all, and of that type."""
    return Counter(
        {f"{name}{suffix}": value for name, value in more.items() for suffix in ("", f"_{type_name}")}
    )


def check(
    conn: sa.Connection, config: Config, project_id: str, more: Mapping[str, int], largest: int = 0
) -> None:
    """OverQuota unless the project may have that much more now. ``largest``: GiB of one volume.

    To take it: lock() before, and write the rows in the same transaction.
    """
    allowed = limits(conn, config, project_id)
    if 0 <= allowed[PER_VOLUME] < largest:
        raise OverQuota(
            f"Requested volume size {largest}G is larger than maximum allowed limit {allowed[PER_VOLUME]}G."
        )
    used = store.used(conn, project_id)
    for resource, amount in more.items():
        limit, have = allowed.get(resource, -1), used.get(resource, 0)
        if amount > 0 and 0 <= limit < have + amount:
            raise _exceeded(resource, amount, limit, have)


def _exceeded(resource: str, amount: int, limit: int, have: int) -> OverQuota:
    if resource.startswith("gigabytes"):
        return OverQuota(
            f"Requested volume or snapshot exceeds allowed {resource} quota. Requested {amount}G, "
            f"quota is {limit}G and {have}G has been consumed."
        )
    what = resource.partition("_")[0]
    return OverQuota(f"Maximum number of {what} allowed ({limit}) exceeded for quota '{resource}'.")


def lock(conn: sa.Connection, project_id: str) -> None:
    store.lock(conn, project_id)
