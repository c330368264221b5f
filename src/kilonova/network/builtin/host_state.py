"""What a host must know of the ports on it, as the records have it. A host reads no more than that."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from kilonova.domain.network import NetworkState, Port, PortSecurity
from kilonova.network.builtin.security_group_rules import filter_of
from kilonova.store import address_groups, port_security
from kilonova.store import security_group_rules as rule_store


def state_of(conn: sa.Connection, ports: Sequence[Port]) -> NetworkState:
    """Of these ports, the rules of their groups, and the members of the groups that those rules name, the
    addresses of address groups among them."""
    ids = sorted({group for port in ports for group in port.security_groups})
    rules = rule_store.of_groups(conn, ids)
    groups = {group: [filter_of(rule) for rule in rules.get(group, [])] for group in ids}
    every = [rule for several in rules.values() for rule in several]
    remotes = {rule.remote_group_id for rule in every if rule.remote_group_id}
    ranges = {rule.remote_address_group_id for rule in every if rule.remote_address_group_id}
    return NetworkState(
        ports=[
            PortSecurity(
                port_id=port.id,
                port_security=port.port_security_enabled,
                allowed_address_pairs=port.allowed_address_pairs,
                security_groups=port.security_groups,
            )
            for port in ports
        ],
        groups=groups,
        members=port_security.members_of(conn, sorted(remotes)) | address_groups.addresses_of(conn, ranges),
    )
