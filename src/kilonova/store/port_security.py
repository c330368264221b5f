"""Which ports are in which security groups, and what hosts must know of that."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import sqlalchemy as sa

from kilonova.store import dialect
from kilonova.store.database import Row
from kilonova.store.schema.hosts import hosts
from kilonova.store.schema.networks import ip_allocations, ports
from kilonova.store.schema.security_groups import port_security_groups as members
from kilonova.store.schema.security_groups import security_group_rules as rules
from kilonova.store.schema.security_groups import security_groups as groups
from kilonova.store.statement import Statement


@dialect.once
def _of_ports(conn: sa.Connection) -> Statement:
    query = sa.select(members).where(dialect.among(conn, members.c.port_id, "ports"))
    return Statement(query.order_by(members.c.port_id, members.c.security_group_id))


_JOIN = Statement(sa.insert(members))
_ANY_FOLLOWER = Statement(sa.select(hosts.c.host).where(hosts.c.follows_network.is_(sa.true())).limit(1))


def groups_of(conn: sa.Connection, port_ids: Sequence[str]) -> dict[str, list[str]]:
    """Port id → ids of its groups; ports without groups are missing."""
    found: dict[str, list[str]] = {}
    if port_ids:
        for row in _of_ports(conn).rows(conn, {"ports": list(port_ids)}):
            found.setdefault(row.port_id, []).append(row.security_group_id)
    return found


def join(conn: sa.Connection, port_groups: Mapping[str, Sequence[str]]) -> None:
    """Port id → groups that it is in from now on."""
    rows = [
        {"port_id": port_id, "security_group_id": group}
        for port_id, own in port_groups.items()
        for group in sorted(set(own))
    ]
    if rows:
        _JOIN.insert(conn, rows)


def leave(conn: sa.Connection, port_ids: Sequence[str]) -> None:
    """The ports are in no group."""
    conn.execute(sa.delete(members).where(members.c.port_id.in_(port_ids)))


def names_of_servers(conn: sa.Connection, server_ids: Sequence[str]) -> dict[str, list[Row]]:
    """Server id → (id, name, project_id, description) of the groups of its ports, one for each port's."""
    found: dict[str, list[Row]] = {}
    if not server_ids:
        return found
    query = (
        sa.select(ports.c.device_id, groups.c.id, groups.c.name, groups.c.project_id, groups.c.description)
        .join(members, members.c.port_id == ports.c.id)
        .join(groups, groups.c.id == members.c.security_group_id)
        .where(ports.c.device_id.in_(server_ids), ports.c.nic.is_not(None))
        .order_by(ports.c.device_id, ports.c.nic, groups.c.name, groups.c.id)
    )
    for row in conn.execute(query):
        found.setdefault(row.device_id, []).append(row)
    return found


def ungrouped(conn: sa.Connection, port_ids: Sequence[str]) -> list[str]:
    """Those of the ports that a release without security groups has made."""
    query = sa.select(ports.c.id).where(ports.c.id.in_(port_ids), ports.c.has_groups.is_(None))
    return [row.id for row in conn.execute(query.order_by(ports.c.id))]


def on_host(conn: sa.Connection, host: str, port_ids: Collection[str]) -> list[str]:
    """Those of the ports that are bound to that host."""
    query = sa.select(ports.c.id).where(
        ports.c.id.in_(port_ids), ports.c.host == host, ports.c.nic.is_not(None)
    )
    return [row.id for row in conn.execute(query.order_by(ports.c.id))]


def members_of(conn: sa.Connection, group_ids: Sequence[str]) -> dict[str, list[str]]:
    """Group id → addresses and ranges of the ports that are in it. Two statements."""
    found: dict[str, list[str]] = {group: [] for group in group_ids}
    if not group_ids:
        return found
    query = (
        sa.select(members.c.security_group_id, ip_allocations.c.ip)
        .join(ip_allocations, ip_allocations.c.port_id == members.c.port_id)
        .where(members.c.security_group_id.in_(group_ids))
    )
    for row in conn.execute(query.order_by(members.c.security_group_id, ip_allocations.c.ip)):
        found[row.security_group_id].append(row.ip)
    pairs = (
        sa.select(members.c.security_group_id, ports.c.allowed_address_pairs)
        .join(ports, ports.c.id == members.c.port_id)
        .where(members.c.security_group_id.in_(group_ids), ports.c.allowed_address_pairs != [])
    )
    for row in conn.execute(pairs.order_by(members.c.security_group_id, ports.c.id)):
        found[row.security_group_id] += [pair.ip_address for pair in row.allowed_address_pairs]
    return found


def any_follower(conn: sa.Connection) -> bool:
    """Whether there is any host that wants to be told of changes."""
    return _ANY_FOLLOWER.row(conn) is not None


def concerned(
    conn: sa.Connection, groups_: Collection[str], members_: Collection[str], ports_: Collection[str]
) -> dict[str, tuple[set[str], set[str]]]:
    """Host → (groups, ports) that it should look at again: one statement.

    ``groups_`` have other rules: hosts with ports in them. ``members_`` have other members (or
    are address groups with other addresses): hosts with ports in groups that have a rule about them.
    ``ports_``: the hosts that these are bound to.
    """
    follows = sa.and_(
        hosts.c.host == ports.c.host, hosts.c.follows_network.is_(sa.true()), ports.c.nic.is_not(None)
    )
    in_groups = (
        sa.select(ports.c.host, sa.literal("group").label("kind"), members.c.security_group_id.label("id"))
        .select_from(members.join(ports, ports.c.id == members.c.port_id).join(hosts, follows))
        .where(members.c.security_group_id.in_(groups_))
    )
    about = sa.select(
        ports.c.host, sa.literal("group").label("kind"), rules.c.remote_group_id.label("id")
    ).select_from(
        rules.join(members, members.c.security_group_id == rules.c.security_group_id)
        .join(ports, ports.c.id == members.c.port_id)
        .join(hosts, follows)
    )
    about_addresses = about.with_only_columns(
        ports.c.host, sa.literal("group").label("kind"), rules.c.remote_address_group_id.label("id")
    )
    own = (
        sa.select(ports.c.host, sa.literal("port").label("kind"), ports.c.id.label("id"))
        .select_from(ports.join(hosts, follows))
        .where(ports.c.id.in_(ports_))
    )
    asked = [
        in_groups,
        about.where(rules.c.remote_group_id.in_(members_)),
        about_addresses.where(rules.c.remote_address_group_id.in_(members_)),
        own,
    ]
    found: dict[str, tuple[set[str], set[str]]] = {}
    for row in conn.execute(sa.union(*asked)):
        found.setdefault(row.host, (set(), set()))[row.kind == "port"].add(row.id)
    return found
