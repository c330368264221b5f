"""Which versions there are, and what v2.0 holds."""

from __future__ import annotations

from typing import Any

from kilonova.api.http import Reply, Request

_COLLECTIONS = {
    "network": "networks",
    "subnet": "subnets",
    "subnetpool": "subnetpools",
    "port": "ports",
    "router": "routers",
    "floatingip": "floatingips",
    "security_group": "security-groups",
    "security_group_rule": "security-group-rules",
    "default_security_group_rule": "default-security-group-rules",
    "address_group": "address-groups",
    "rbac_policy": "rbac-policies",
    "network_ip_availability": "network-ip-availabilities",
    "quota": "quotas",
}


def index(_network: Any, request: Request) -> Reply:
    link = {"rel": "self", "href": f"{request.url}/v2.0/"}
    return Reply(body={"versions": [{"id": "v2.0", "status": "CURRENT", "links": [link]}]})


def v2(_network: Any, request: Request) -> Reply:
    resources = [
        {
            "name": name,
            "collection": plural,
            "links": [{"rel": "self", "href": f"{request.url}/v2.0/{plural}"}],
        }
        for name, plural in _COLLECTIONS.items()
    ]
    return Reply(body={"resources": resources})
