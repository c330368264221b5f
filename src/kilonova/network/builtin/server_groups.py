"""The security groups of servers: as the Compute API names, shows and changes them."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from kilonova.domain.context import RequestContext
from kilonova.domain.errors import BadRequest, Conflict, NotFound
from kilonova.domain.network import Port
from kilonova.domain.security_groups import SecurityGroup, SecurityGroupRule
from kilonova.network.base import ServerGroup
from kilonova.network.builtin import port_groups, vifs
from kilonova.network.builtin.changes import Change, changed
from kilonova.network.builtin.security_groups import DEFAULT
from kilonova.store import port_security, ports
from kilonova.store import security_group_rules as rule_store
from kilonova.store import security_groups as store


def resolved(conn: sa.Connection, project_id: str | None, names: Sequence[str]) -> list[str]:
    """Ids of the groups of these names or ids; ``default`` stays a name, since it is made when needed.

    NotFound, or Conflict if several have the name.
    """
    wanted = list(dict.fromkeys(names))
    others = [name for name in wanted if name != DEFAULT]
    found = store.named(conn, others, project_id) if others else []
    return [name if name == DEFAULT else _one(found, name, project_id) for name in wanted]


def _one(found: Sequence[SecurityGroup], name: str, project_id: str | None) -> str:
    """An id goes before a name, and what is the project's own before what is shared with it."""
    called = [group for group in found if group.name == name]
    own = [group.id for group in called if group.project_id == project_id]
    ids = [group.id for group in found if group.id == name] or own or [group.id for group in called]
    if not ids:
        raise NotFound(f"Security group {name} not found.")
    if len(ids) > 1:
        raise Conflict(f"Multiple security groups found matching '{name}'. Use an ID to be more specific.")
    return ids[0]


def of_server(conn: sa.Connection, server_id: str) -> list[ServerGroup]:
    """Each group that a NIC of the server is in, with its rules."""
    names = {row.id: row for row in port_security.names_of_servers(conn, [server_id]).get(server_id, [])}
    rules = rule_store.of_groups(conn, list(names))
    remotes = _named(conn, [rule for several in rules.values() for rule in several])
    return [
        ServerGroup(
            id=group_id,
            name=row.name,
            project_id=row.project_id,
            description=row.description,
            rules=rules.get(group_id, []),
            remotes=remotes,
        )
        for group_id, row in names.items()
    ]


def _named(conn: sa.Connection, rules: Sequence[SecurityGroupRule]) -> dict[str, SecurityGroup]:
    ids = sorted({rule.remote_group_id for rule in rules if rule.remote_group_id})
    return {group.id: group for group in store.named(conn, ids, None) if group.id in ids} if ids else {}


def add(conn: sa.Connection, context: RequestContext, server_id: str, name: str) -> None:
    """The guarded NICs of the server are in that group too. NotFound: no such group, or no NIC."""
    group = _group(conn, context, name)
    guarded = [port for port in _nics(conn, server_id) if port.port_security_enabled]
    if not guarded:
        raise BadRequest(
            f"Network requires port_security_enabled and subnet associated in order to apply security groups "
            f"to instance {server_id}."
        )
    new = [port for port in guarded if group not in port.security_groups]
    port_security.join(conn, {port.id: [group] for port in new})
    _changed(conn, new, group)


def remove(conn: sa.Connection, context: RequestContext, server_id: str, name: str) -> None:
    group = _group(conn, context, name)
    having = [port for port in _nics(conn, server_id) if group in port.security_groups]
    if not having:
        raise NotFound(f"Security group {name} not associated with the instance {server_id}")
    port_security.leave(conn, [port.id for port in having])
    port_security.join(conn, {p.id: [own for own in p.security_groups if own != group] for p in having})
    _changed(conn, having, group)


def _group(conn: sa.Connection, context: RequestContext, name: str) -> str:
    project = None if context.is_admin and context.project_id is None else context.project_id
    found = store.named(conn, [name], project)
    group = _one(found, name, project)
    store.kept(conn, [group], None)
    return group


def _nics(conn: sa.Connection, server_id: str) -> list[Port]:
    """The server's ports, locked."""
    ids = sorted(port.id for port in ports.of_servers(conn, [server_id]))
    if not ids:
        raise NotFound(f"instance_id {server_id} could not be found as device id on any ports")
    return port_groups.adopted(conn, list(ports.by_id(conn, ids, for_update=True).values()))


def _changed(conn: sa.Connection, found: Sequence[Port], group: str) -> None:
    if found:
        ids = [port.id for port in found]
        ports.update(conn, ids, {})
        vifs.show(conn, found[0])  # they are all one server's
        changed(conn, Change(ports=ids, members=[group]))
