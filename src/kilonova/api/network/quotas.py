"""Quotas: /quotas. A project reads its own; an admin reads and sets everybody's."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from kilonova.api.http import Reply, Request
from kilonova.domain.errors import BadRequest
from kilonova.network.builtin import policy, quotas
from kilonova.network.builtin.errors import InvalidQuotaValue, TenantQuotaNotFound
from kilonova.network.builtin.service import BuiltinNetwork
from kilonova.store import network_quotas as store

Limit = Annotated[int, Meta(ge=-1, le=2_147_483_647)]


class Quota(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    network: Limit | UnsetType = UNSET
    subnet: Limit | UnsetType = UNSET
    port: Limit | UnsetType = UNSET
    router: Limit | UnsetType = UNSET
    floatingip: Limit | UnsetType = UNSET
    security_group: Limit | UnsetType = UNSET
    security_group_rule: Limit | UnsetType = UNSET
    rbac_policy: Limit | UnsetType = UNSET
    subnetpool: Limit | UnsetType = UNSET
    check_limit: bool = False
    """Refuse a limit below what is used; ``force`` is the contrary, and what happens without either."""
    force: bool = False
    project_id: str | UnsetType = UNSET
    tenant_id: str | UnsetType = UNSET


class QuotaBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    quota: Quota


def index(network: BuiltinNetwork, request: Request) -> Reply:
    """Every project that has limits of its own."""
    policy.admin_only(request.context, "rule:get_quota")
    with network.db.read() as conn:
        own = store.every(conn)
    usual = quotas.defaults(network.config)
    views = [{**usual, **limits, "project_id": p, "tenant_id": p} for p, limits in own.items()]
    return Reply(body={"quotas": views})


def show(network: BuiltinNetwork, request: Request, project_id: str) -> Reply:
    _may_read(request, project_id)
    with network.db.read() as conn:
        return Reply(body={"quota": quotas.limits(conn, network.config, project_id)})


def default(network: BuiltinNetwork, request: Request, project_id: str) -> Reply:
    _may_read(request, project_id)
    return Reply(body={"quota": quotas.defaults(network.config)})


def details(network: BuiltinNetwork, request: Request, project_id: str) -> Reply:
    _may_read(request, project_id)
    with network.db.read() as conn:
        limits, used = quotas.limits(conn, network.config, project_id), store.used(conn, project_id)
    # Nothing is ever reserved: what is made is counted in the transaction that makes it.
    views = {name: {"limit": limits[name], "used": used[name], "reserved": 0} for name in limits}
    return Reply(body={"quota": views})


def update(network: BuiltinNetwork, request: Request, project_id: str) -> Reply:
    policy.admin_only(request.context, "rule:update_quota")
    quota = request.json(QuotaBody).quota
    if quota.check_limit and quota.force:
        raise BadRequest("'check_limit' and 'force' exclude each other")
    limits: dict[str, Any] = {
        name: value for name in quotas.RESOURCES if (value := getattr(quota, name)) is not UNSET
    }
    with network.db.write() as conn:
        if quota.check_limit:
            used = store.used(conn, project_id)
            if unders := [name for name, limit in limits.items() if 0 <= limit < used[name]]:
                raise InvalidQuotaValue(
                    f"Change would make usage less than 0 for the following resources: {unders}."
                )
        store.put(conn, project_id, limits)
        return Reply(body={"quota": quotas.limits(conn, network.config, project_id)})


def delete(network: BuiltinNetwork, request: Request, project_id: str) -> Reply:
    policy.admin_only(request.context, "rule:delete_quota")
    with network.db.write() as conn:
        if not store.delete(conn, project_id):
            raise TenantQuotaNotFound(f"Quota for tenant {project_id} could not be found.")
    return Reply(204)


def _may_read(request: Request, project_id: str) -> None:
    if request.context.project_id != project_id:
        policy.admin_only(request.context, "rule:get_quota")
