"""GET /limits: what the caller's project may use and uses."""

from __future__ import annotations

from kilonova.api.compute import queries
from kilonova.api.compute.policy import require_admin
from kilonova.api.compute.quotas import all_limits
from kilonova.api.compute.state import ComputeAPI
from kilonova.api.http import Reply, Request, Route
from kilonova.store import usage

_ALWAYS = {
    "maxTotalInstances": "instances",
    "maxTotalCores": "cores",
    "maxTotalRAMSize": "ram",
    "maxTotalKeypairs": "key_pairs",
    "maxServerMeta": "metadata_items",
    "maxServerGroups": "server_groups",
    "maxServerGroupMembers": "server_group_members",
}
_UNTIL_235 = {
    "maxSecurityGroups": "security_groups",
    "maxSecurityGroupRules": "security_group_rules",
    "maxTotalFloatingIps": "floating_ips",
}
_UNTIL_238 = {"maxImageMeta": "metadata_items"}
_UNTIL_256 = {"maxPersonality": "injected_files", "maxPersonalitySize": "injected_file_content_bytes"}
_USED = {"totalInstancesUsed": "instances", "totalCoresUsed": "cores", "totalRAMUsed": "ram"}
# The network service counts its own; there are no server groups.
_NOTHING_USED = {"totalServerGroupsUsed": 0}
_NOTHING_USED_UNTIL_235 = {"totalFloatingIpsUsed": 0, "totalSecurityGroupsUsed": 0}


def index(api: ComputeAPI, request: Request) -> Reply:
    queries.check(request, ("tenant_id",), strict_since=(2, 75))
    context = request.context
    project_id = request.query("tenant_id")
    if project_id is not None:
        require_admin(context, "limits:other_project")
    else:
        project_id = context.project_id or ""
    with api.db.read() as conn:
        limits, used = all_limits(conn, api, project_id), usage.used(conn, project_id)
    absolute = {name: limits[resource] for name, resource in _names(request).items()}
    absolute |= {name: used[resource] for name, resource in _USED.items()} | _NOTHING_USED
    if not request.at_least(2, 36):
        absolute |= _NOTHING_USED_UNTIL_235
    return Reply(body={"limits": {"rate": [], "absolute": absolute}})


def _names(request: Request) -> dict[str, str]:
    """The limits that the microversion shows, by the resource they limit."""
    names = dict(_ALWAYS)
    if not request.at_least(2, 57):
        names |= _UNTIL_256
    if not request.at_least(2, 39):
        names |= _UNTIL_238
    if not request.at_least(2, 36):
        names |= _UNTIL_235
    return names


ROUTES = [Route("GET", "/limits", index)]
