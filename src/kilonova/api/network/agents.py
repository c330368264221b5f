"""/agents: what Neutron has agents for, host by host, as hosts' reports tell. For admins.

The agent of a host does it all: it joins guests to networks, leads them out, answers DHCP and metadata. It is
shown as the agents that clients know, under Neutron's names; they live and die with it. Who is no admin sees
none, as in Neutron.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from kilonova.api.http import Reply, Request, Route
from kilonova.api.network import lists
from kilonova.api.network.resources import View
from kilonova.domain.errors import BadRequest
from kilonova.network.builtin import policy
from kilonova.network.builtin.errors import AgentNotFound, InvalidInput
from kilonova.network.builtin.service import BuiltinNetwork
from kilonova.store import network_agents as store
from kilonova.store.network_agents import Host
from kilonova.store.network_lists import Page

_URL = "/v2.0/agents"
_FILTERS = ("id", "agent_type", "binary", "topic", "host", "alive", "admin_state_up", "availability_zone")
_SWITCHES = ("alive", "admin_state_up")


def index(network: BuiltinNetwork, request: Request) -> Reply:
    page = lists.asked(request, ())
    names = {*page.filters, *(name for name, _ in page.sort)}
    if unknown := sorted(names - set(_FILTERS)):
        raise BadRequest(f"Invalid input for filters: {unknown[0]} is no attribute to filter by")
    views = [view for view in _views(network, request) if _fits(view, page.filters)]
    for name, descending in reversed(page.sort):
        views.sort(key=_by(name), reverse=descending)
    shown, more, before = _page(views, page)
    links = lists.links(request, "agents", _URL, page, [view["id"] for view in shown], more, before)
    return Reply(body={"agents": [lists.fields(request, view) for view in shown], **links})


def _by(name: str) -> Callable[[View], str]:
    return lambda view: str(view[name] or "")


def _page(views: list[View], page: Page) -> tuple[list[View], bool, bool]:
    """Those of the page, and whether there are more after and before them."""
    ids = [view["id"] for view in views]
    if page.marker is not None and page.marker not in ids:
        raise AgentNotFound(f"Agent {page.marker} (the marker) could not be found.")
    at = 0 if page.marker is None else ids.index(page.marker)
    if page.reverse:
        end = at if page.marker is not None else len(ids)
        start = max(0, end - page.limit)
    else:
        start = at + (page.marker is not None)
        end = min(len(ids), start + page.limit)
    return views[start:end], end < len(ids), start > 0


def show(network: BuiltinNetwork, request: Request, agent_id: str) -> Reply:
    return Reply(body={"agent": lists.fields(request, _found(network, request, agent_id))})


def refuse(network: BuiltinNetwork, request: Request, agent_id: str) -> Reply:
    """An agent is a part of its host's, which is disabled and removed as a compute service."""
    policy.may_write(request.context, "rule:update_agent")
    host = _found(network, request, agent_id)["host"]
    raise InvalidInput(f"agents are parts of their hosts: change the compute service of {host}")


def _found(network: BuiltinNetwork, request: Request, agent_id: str) -> View:
    for view in _views(network, request):
        if view["id"] == agent_id:
            return view
    raise AgentNotFound(f"Agent {agent_id} could not be found")


def _views(network: BuiltinNetwork, request: Request) -> list[View]:
    if not request.context.is_admin:
        return []
    with network.db.read() as conn:
        hosts = store.serving(conn, network.config.compute.service_down_time)
    return [view for host in hosts for view in _agents(host)]


def _agents(host: Host) -> list[View]:
    tunnels = {"tunnel_types": ["vxlan"], "tunneling_ip": host.tunnel_address} if host.tunnel_address else {}
    switch = ("Open vSwitch agent", "openvswitch")
    if host.plug == "bridge":
        switch = ("Linux bridge agent", "linuxbridge")
    return [
        _view(host, *switch, "N/A", {"bridge_mappings": {}, **tunnels}),
        _view(host, "L3 agent", "l3", "l3_agent", {"agent_mode": "legacy", "routers": host.routers})
        | {"admin_state_up": host.enabled, "availability_zone": host.zone},
        _view(host, "DHCP agent", "dhcp", "dhcp_agent", {"networks": host.networks})
        | {"availability_zone": host.zone},
        _view(host, "Metadata agent", "metadata", "N/A", {}),
    ]


def _view(host: Host, kind: str, name: str, topic: str, configurations: dict[str, Any]) -> View:
    return {
        "id": str(uuid.uuid5(uuid.UUID(host.id), kind)),
        "agent_type": kind,
        "binary": f"neutron-{name}-agent",
        "topic": topic,
        "host": host.name,
        "availability_zone": None,
        "admin_state_up": True,
        "alive": host.alive,
        "created_at": _time(host.created_at),
        # When the host's agent was started last, nobody says.
        "started_at": None,
        "heartbeat_timestamp": _time(host.last_seen),
        "description": None,
        "configurations": configurations,
    }


def _time(at: float) -> str:
    """As Neutron writes them here."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _fits(view: View, filters: dict[str, list[str]]) -> bool:
    found = (
        (_value(name, view[name]), [_asked(name, one) for one in wanted]) for name, wanted in filters.items()
    )
    return all(value in wanted for value, wanted in found)


def _value(name: str, value: Any) -> str:
    return str(value).lower() if name in _SWITCHES else str(value or "")


def _asked(name: str, text: str) -> str:
    return {"1": "true", "0": "false"}.get(text, text.lower()) if name in _SWITCHES else text


ROUTES = [
    Route("GET", _URL, index),
    Route("GET", f"{_URL}/{{agent_id}}", show),
    Route("PUT", f"{_URL}/{{agent_id}}", refuse),
    Route("DELETE", f"{_URL}/{{agent_id}}", refuse),
]
