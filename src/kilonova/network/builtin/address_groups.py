"""Address groups: create, update, delete, and which addresses are in them. Every function runs inside the
caller's transaction.

To hosts an address group is what a security group's members are: addresses that rules name by an id.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection
from ipaddress import ip_interface

import sqlalchemy as sa

from kilonova.config import Config
from kilonova.domain.clock import now
from kilonova.domain.context import RequestContext
from kilonova.domain.security_groups import AddressGroup
from kilonova.network.builtin import policy
from kilonova.network.builtin.changes import Change, changed
from kilonova.network.builtin.errors import (
    AddressesAlreadyExist,
    AddressesNotFound,
    AddressGroupInUse,
    AddressGroupNotFound,
    InvalidInput,
)
from kilonova.network.builtin.requests import AddressGroupCreate, AddressGroupUpdate, said
from kilonova.store import address_groups as store
from kilonova.store import network_tags as tags

MOST = 1000
"""Addresses of a group: each host with a rule about it knows them all."""


def find(
    conn: sa.Connection, context: RequestContext, group_id: str, for_update: bool = False
) -> AddressGroup:
    """The group, if the asker sees it; AddressGroupNotFound else."""
    return _found(store.get(conn, group_id, policy.scope(context), for_update), group_id)


def kept(conn: sa.Connection, context: RequestContext, group_id: str) -> None:
    """Nobody deletes it, or takes it from the asker, before the transaction ends. AddressGroupNotFound: the
    asker sees none."""
    _found(store.get(conn, group_id, policy.scope(context), to_use=True), group_id)


def create(
    conn: sa.Connection, _config: Config, context: RequestContext, body: AddressGroupCreate
) -> AddressGroup:
    project_id = policy.project_of_new(context, body.project_id, body.tenant_id, "rule:create_address_group")
    made = now()
    group = AddressGroup(
        id=str(uuid.uuid4()),
        project_id=project_id,
        name=body.name or "",
        description=body.description or "",
        addresses=sorted(_parsed(body.addresses or [])),
        created_at=made,
        updated_at=made,
    )
    store.insert(conn, group)
    return group


def update(
    conn: sa.Connection, _config: Config, context: RequestContext, group_id: str, body: AddressGroupUpdate
) -> AddressGroup:
    group = _to_change(conn, context, group_id, "update_address_group")
    if changes := said(body, "name", "description"):
        store.update(conn, group.id, changes)
    return find(conn, context, group_id)


def add(
    conn: sa.Connection, context: RequestContext, group_id: str, addresses: Collection[str]
) -> AddressGroup:
    group = _to_change(conn, context, group_id, "add_addresses")
    new = _parsed(addresses)
    if there := sorted(new & set(group.addresses)):
        raise AddressesAlreadyExist(f"Addresses {there} already exist in the address group {group.id}.")
    if len(group.addresses) + len(new) > MOST:
        raise InvalidInput(f"an address group has {MOST} addresses at most")
    return _become(conn, context, group, {*group.addresses, *new})


def remove(
    conn: sa.Connection, context: RequestContext, group_id: str, addresses: Collection[str]
) -> AddressGroup:
    group = _to_change(conn, context, group_id, "remove_addresses")
    gone = _parsed(addresses)
    if missing := sorted(gone - set(group.addresses)):
        raise AddressesNotFound(f"Addresses {missing} not found in the address group {group.id}.")
    return _become(conn, context, group, set(group.addresses) - gone)


def delete(conn: sa.Connection, context: RequestContext, group_id: str) -> None:
    group = find(conn, context, group_id)
    policy.owner_only(context, "rule:delete_address_group", group.project_id)
    _found(store.get(conn, group_id, None, for_delete=True), group_id)
    if store.in_use(conn, group.id):
        raise AddressGroupInUse(f"Address group {group.id} is in use on one or more security group rules.")
    store.delete(conn, group.id)
    tags.remove(conn, [group.id])


def owners(_conn: sa.Connection, group: AddressGroup) -> list[str]:
    return [group.project_id]


def _to_change(conn: sa.Connection, context: RequestContext, group_id: str, rule: str) -> AddressGroup:
    """The group, locked, if the asker may change it."""
    group = _found(store.get(conn, group_id, policy.scope(context), for_update=True), group_id)
    policy.owner_only(context, f"rule:{rule}", group.project_id)
    return group


def _become(
    conn: sa.Connection, context: RequestContext, group: AddressGroup, addresses: set[str]
) -> AddressGroup:
    store.update(conn, group.id, {"addresses": sorted(addresses)})
    changed(conn, Change(members=[group.id]))
    return find(conn, context, group.id)


def _found(group: AddressGroup | None, group_id: str) -> AddressGroup:
    if group is None:
        raise AddressGroupNotFound(f"Address group {group_id} could not be found.")
    return group


def _parsed(addresses: Collection[str]) -> set[str]:
    """As Neutron writes them: a network's address and its length."""
    return {_network(one) for one in addresses}


def _network(text: str) -> str:
    if "%" in text:  # a zone, which means something on one host at most
        raise InvalidInput(f"'{text}' is not a valid IP subnet")
    try:
        return str(ip_interface(text).network)
    except ValueError as error:
        raise InvalidInput(f"'{text}' is not a valid IP subnet") from error
