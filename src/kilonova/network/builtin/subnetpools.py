"""Subnet pools: create, update, delete, and the CIDRs that subnets take of them.

Every function runs inside the caller's transaction. Who takes of a pool locks it, before networks.
"""

from __future__ import annotations

import uuid
from typing import Any

import sqlalchemy as sa
from msgspec import UNSET, structs

from kilonova.config import Config
from kilonova.domain.addresses import Network, parse_network
from kilonova.domain.clock import now
from kilonova.domain.context import RequestContext
from kilonova.domain.network import SubnetPool
from kilonova.network.builtin import errors, policy, prefixes, quotas
from kilonova.network.builtin.errors import InvalidInput
from kilonova.network.builtin.requests import SubnetCreate, SubnetPoolCreate, SubnetPoolUpdate, said
from kilonova.store import network_tags as tags
from kilonova.store import subnetpools as store

_SHORTEST = {4: 8, 6: 64}
"""Prefix length of the largest subnet of a pool, unless it says another."""
_LONGEST = {4: 32, 6: 128}
_LENGTHS = ("min_prefixlen", "max_prefixlen", "default_prefixlen")


def find(conn: sa.Connection, context: RequestContext, pool_id: str, for_update: bool = False) -> SubnetPool:
    """The pool, if the asker sees it; SubnetPoolNotFound else."""
    pool = store.get(conn, pool_id, policy.scope(context), for_update)
    if pool is None:
        raise errors.SubnetPoolNotFound(f"Subnet pool {pool_id} could not be found.")
    return pool


def create(
    conn: sa.Connection, config: Config, context: RequestContext, body: SubnetPoolCreate
) -> SubnetPool:
    project_id = policy.project_of_new(context, body.project_id, body.tenant_id, "rule:create_subnetpool")
    _check_offered(body)
    if body.shared is True:
        policy.admin_only(context, "rule:create_subnetpool:shared")
    if body.is_default is True:
        policy.admin_only(context, "rule:create_subnetpool:is_default")
    ranges = _ranges(list(body.prefixes) if body.prefixes is not UNSET else [])
    version = ranges[0].version
    shortest = _SHORTEST[version] if body.min_prefixlen is UNSET else body.min_prefixlen
    made = now()
    pool = SubnetPool(
        id=str(uuid.uuid4()),
        project_id=project_id,
        name=body.name or "",
        description=body.description or "",
        ip_version=version,
        prefixes=[str(one) for one in ranges],
        min_prefixlen=shortest,
        max_prefixlen=_LONGEST[version] if body.max_prefixlen is UNSET else body.max_prefixlen,
        default_prefixlen=shortest if body.default_prefixlen is UNSET else body.default_prefixlen,
        default_quota=None if body.default_quota is UNSET else body.default_quota,
        shared=body.shared is True,
        is_default=body.is_default is True,
        created_at=made,
        updated_at=made,
    )
    _check_lengths(pool)
    quotas.check(conn, config, project_id, "subnetpool")
    _check_default(conn, pool)
    store.insert(conn, pool)
    return pool


def update(
    conn: sa.Connection, _config: Config, context: RequestContext, pool_id: str, body: SubnetPoolUpdate
) -> SubnetPool:
    """Its ranges may only grow: subnets have been made of them."""
    pool = find(conn, context, pool_id, for_update=True)
    policy.owner_only(context, "rule:update_subnetpool", pool.project_id)
    _check_offered(body)
    if body.is_default is not UNSET:
        policy.admin_only(context, "rule:update_subnetpool:is_default")
    changes: dict[str, Any] = said(body, "name", "description", *_LENGTHS, "default_quota", "is_default")
    if body.prefixes is not UNSET:
        changes["prefixes"] = _grown(pool, list(body.prefixes))
    wanted = structs.replace(pool, **changes)
    _check_lengths(wanted)
    _check_default(conn, wanted)
    if changes:
        store.update(conn, pool.id, changes)
    return find(conn, context, pool_id)


def delete(conn: sa.Connection, context: RequestContext, pool_id: str) -> None:
    """SubnetPoolDeleteError while a subnet is of it."""
    pool = find(conn, context, pool_id, for_update=True)
    policy.owner_only(context, "rule:delete_subnetpool", pool.project_id)
    if store.taken(conn, pool.id):
        raise errors.SubnetPoolDeleteError(
            "Unable to delete subnet pool: Subnet pool has existing allocations."
        )
    store.delete(conn, pool.id)
    tags.remove(conn, [pool.id])


def owners(_conn: sa.Connection, pool: SubnetPool) -> list[str]:
    return [pool.project_id]


def asked(conn: sa.Connection, context: RequestContext, body: SubnetCreate) -> SubnetPool | None:
    """The pool that the subnet shall be of, locked; None: of none."""
    if body.use_default_subnetpool is True:
        if body.subnetpool_id not in (UNSET, None):
            raise InvalidInput("subnetpool_id and use_default_subnetpool cannot both be specified")
        pool = store.default(conn, body.ip_version)
        if pool is None:
            raise InvalidInput(f"No default subnetpool found for IPv{body.ip_version}")
        return _locked(conn, pool.id)
    if body.subnetpool_id in (UNSET, None):
        return None
    if body.subnetpool_id == "prefix_delegation":
        raise InvalidInput("subnetpool_id: prefix delegation is not offered")
    return find(conn, context, str(body.subnetpool_id), for_update=True)


def take(conn: sa.Connection, pool: SubnetPool, project_id: str, body: SubnetCreate) -> str:
    """A CIDR of the pool for a subnet of that project: the one that the body says, or the lowest free one."""
    if pool.ip_version != body.ip_version:
        raise InvalidInput(
            f"Cannot allocate IPv{body.ip_version} subnet from IPv{pool.ip_version} subnet pool"
        )
    if body.cidr is not UNSET and body.prefixlen is not UNSET:
        raise InvalidInput("cidr and prefixlen must not be supplied together")
    if body.cidr is UNSET and body.allocation_pools is not UNSET:
        raise InvalidInput("allocation_pools allowed only for specific subnet requests")
    ranges = prefixes.merged(pool.prefixes)
    others = store.taken(conn, pool.id)
    taken = [parse_network(cidr) for cidr, _ in others]
    found: Network | None
    if body.cidr is UNSET:
        length = pool.default_prefixlen if body.prefixlen is UNSET else body.prefixlen
        _check_length(pool, length)
        found = prefixes.first_free(ranges, taken, length)
        why = f"Insufficient prefix space to allocate subnet size /{length}"
    else:
        wanted = _range(body.cidr)
        _check_length(pool, wanted.prefixlen)
        free = prefixes.holds(ranges, wanted) and not any(wanted.overlaps(one) for one in taken)
        found = wanted if free else None
        why = "Cannot allocate requested subnet from the available set of prefixes"
    if found is None:
        raise errors.SubnetAllocationError(f"Failed to allocate subnet: {why}.")
    own = sum(prefixes.units(parse_network(cidr)) for cidr, project in others if project == project_id)
    if pool.default_quota is not None and own + prefixes.units(found) > pool.default_quota:
        raise errors.SubnetPoolQuotaExceeded("Per-tenant subnet pool prefix quota exceeded.")
    return str(found)


def _locked(conn: sa.Connection, pool_id: str) -> SubnetPool:
    """Whoever sees it: the default pool is everybody's."""
    pool = store.get(conn, pool_id, None, for_update=True)
    if pool is None:
        raise errors.SubnetPoolNotFound(f"Subnet pool {pool_id} could not be found.")
    return pool


def _check_offered(body: SubnetPoolUpdate) -> None:
    if body.address_scope_id not in (UNSET, None):
        raise InvalidInput("address_scope_id: address scopes are not offered")


def _range(text: str) -> Network:
    try:
        return parse_network(text)
    except ValueError as error:
        raise InvalidInput(f"'{text}' is not a valid CIDR: {error}") from error


def _ranges(texts: list[str]) -> list[Network]:
    """As they are kept."""
    found = [_range(text) for text in texts]
    if not found:
        raise errors.EmptySubnetPoolPrefixList("Empty subnet pool prefix list.")
    if len({one.version for one in found}) > 1:
        raise errors.PrefixVersionMismatch("Cannot mix IPv4 and IPv6 prefixes in a subnet pool.")
    return prefixes.merged(texts)


def _grown(pool: SubnetPool, texts: list[str]) -> list[str]:
    wanted = _ranges(texts)
    if wanted[0].version != pool.ip_version or not all(
        prefixes.holds(wanted, parse_network(one)) for one in pool.prefixes
    ):
        raise errors.IllegalSubnetPoolUpdate(
            "Illegal subnetpool update : Existing prefixes must be a subset of the new prefixes."
        )
    return [str(one) for one in wanted]


def _check_lengths(pool: SubnetPool) -> None:
    shortest, longest = _SHORTEST[pool.ip_version], _LONGEST[pool.ip_version]
    if pool.min_prefixlen < shortest:
        raise errors.UnsupportedMinSubnetPoolPrefix(
            f"Prefix '{pool.min_prefixlen}' not supported in IPv{pool.ip_version} pool."
        )
    bounds = {name: getattr(pool, name) for name in _LENGTHS} | {"ip_version_max": longest}
    for low, high in (
        ("min_prefixlen", "max_prefixlen"),
        ("min_prefixlen", "default_prefixlen"),
        ("default_prefixlen", "max_prefixlen"),
        ("max_prefixlen", "ip_version_max"),
    ):
        if bounds[low] > bounds[high]:
            raise errors.IllegalSubnetPoolPrefixBounds(
                f"Illegal prefix bounds: {low}={bounds[low]}, {high}={bounds[high]}."
            )


def _check_length(pool: SubnetPool, length: int) -> None:
    if length < pool.min_prefixlen:
        raise errors.MinPrefixSubnetAllocationError(
            f"Unable to allocate subnet with prefix length {length}, minimum allowed prefix is "
            f"{pool.min_prefixlen}."
        )
    if length > pool.max_prefixlen:
        raise errors.MaxPrefixSubnetAllocationError(
            f"Unable to allocate subnet with prefix length {length}, maximum allowed prefix is "
            f"{pool.max_prefixlen}."
        )


def _check_default(conn: sa.Connection, pool: SubnetPool) -> None:
    """There is one default pool of each IP version."""
    if not pool.is_default:
        return
    store.lock_default(conn)
    other = store.default(conn, pool.ip_version)
    if other is not None and other.id != pool.id:
        raise InvalidInput(
            "A default subnetpool for this IP family has already been set. "
            "Only one default may exist per IP family"
        )
