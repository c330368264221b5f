"""What is wrong with a host's network at this moment, against its own records: for ``kilonova doctor``.

Another process may own that network, and change it meanwhile: this one looks, and makes, moves or writes
nothing. Rules are compared as their owner compares them (audit.py); devices, addresses, routes and servers
are looked for. Ports that Open vSwitch has not are told elsewhere (cli/switch_checks.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar, get_args

import msgspec
from msgspec import structs

from kilonova.config import Network
from kilonova.domain import codec
from kilonova.domain.errors import KilonovaError
from kilonova.domain.network import NetworkState, PlugKind, Vif
from kilonova.network.host import bridge_settings, dhcp, firewall, linux, names, nft, records
from kilonova.network.host.external import External
from kilonova.network.host.forwarding import Forwarding
from kilonova.network.host.knowledge import Known
from kilonova.network.host.look_routers import router_problems, rule_problems
from kilonova.network.host.look_tunnels import Part, tunnel_problems
from kilonova.network.host.perimeter import leads_out, table_name
from kilonova.network.host.plan import METADATA_ADDRESS, NetworkPlan, transit_link
from kilonova.network.host.plug import make
from kilonova.network.host.router_records import Record
from kilonova.network.host.ruleset import Ruleset
from kilonova.network.host.wanted import Wanted

T = TypeVar("T")

_IP_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")
_KINDS: dict[str, PlugKind] = {kind: kind for kind in get_args(PlugKind)}
_LISTENS = "0A"
"""Of a socket, in /proc/net/tcp."""


def problems(folder: Path, config: Network) -> list[str]:
    """A line for each thing that is wrong at both of two looks: what its owner does just now is not."""
    first = _looked(folder, config)
    return [line for line in _looked(folder, config) if line in first] if first else []


def _looked(folder: Path, config: Network) -> list[str]:
    one = _Look(folder, config)
    try:
        return list(one.problems())
    finally:
        one.close()


class _Look:
    def __init__(self, folder: Path, config: Network) -> None:
        kind = _KINDS[(records.read(folder / "plug") or b"bridge").decode()]
        self._config = structs.replace(config, plug=kind)
        self._folder = folder
        self._vifs = _all_of(folder / "ports", Vif)
        self._routers = _all_of(folder / "routers", Record)
        self._gateways = _of(folder / "gateways.json", dict[str, list[str]]) or {}
        self._plug = make(kind, self._config, folder, self._rules, self._zone)
        self._external = External(self._config, folder, Forwarding(folder / "ip_forward"))

    def problems(self) -> Iterator[str]:
        if not self._vifs and not self._routers:
            return
        yield from self._trying("the host", self._of_host)
        yield from self._trying("firewall rules", self._of_rules)
        yield from self._trying("tunnels", self._of_tunnels)
        yield from self._trying("the switch", self._of_plug)
        for network_id in sorted({vif.network_id for vif in self._vifs}):
            what = f"network {network_id}"
            plan = self._plan(network_id)
            yield from self._trying(what, lambda one=plan: self._of_network(one))  # type: ignore[misc]
        for vif in self._vifs:
            what = f"port {vif.port_id}"
            yield from self._trying(what, lambda one=vif: self._of_port(one))  # type: ignore[misc]
        for record in self._routers:
            what = f"router {record.state.id}"
            yield from self._trying(
                what,
                lambda one=record: router_problems(one.state, self._external, self._plug.kind),  # type: ignore[misc]
            )

    def close(self) -> None:
        self._plug.stop()

    @staticmethod
    def _trying(what: str, look: Callable[[], list[str]]) -> Iterator[str]:
        try:
            with linux.making("looking"):
                yield from (f"{what}: {line}" for line in look())
        except KilonovaError as error:
            yield f"{what}: {error.message}"

    def _of_host(self) -> list[str]:
        routes = any(one.state.gateway for one in self._routers) and not self._config.external_interface
        wanted = routes or (self._config.nat and any(map(leads_out, self._vifs)))
        forwards = _IP_FORWARD.read_text().strip() == "1"
        return ["net.ipv4.ip_forward is 0"] if wanted and not forwards else []

    def _of_rules(self) -> list[str]:
        tables: list[nft.Table] = []
        if self._vifs:
            wanted = Wanted(self._config, table_name(self._folder), self._zone, self._plug)
            tables += wanted.tables(self._vifs, self._known())
        if self._routers:
            states = [record.state for record in self._routers]
            gateways = [state.gateway for state in states if state.gateway]
            inner = [names.router_link(one.port_id) for state in states for one in state.interfaces]
            tables += self._external.tables(gateways, inner)
        return rule_problems(tables) + self._plug.look()

    def _of_tunnels(self) -> list[str]:
        interfaces = [one for record in self._routers for one in record.state.interfaces]
        here = {one.network_id: Part(mtu=one.mtu) for one in interfaces}
        for network_id in {vif.network_id for vif in self._vifs}:
            plan = self._plan(network_id)
            here[network_id] = Part(mtu=plan.mtu, addresses=plan.addresses)
        return tunnel_problems(self._folder, self._config, self._plug, here)

    def _of_plug(self) -> list[str]:
        interfaces = [one for record in self._routers for one in record.state.interfaces]
        return self._plug.look_at(self._rules().vifs, interfaces)

    def _zone(self, owner: str) -> int:
        return int(records.read(self._folder / "zones" / owner) or 0)

    def _rules(self) -> Ruleset:
        known = self._known()
        return Ruleset([known.applied(vif) for vif in self._vifs], known)

    def _known(self) -> Known:
        told = _of(self._folder / "security.json", NetworkState) or NetworkState()
        return Known({port.port_id: port for port in told.ports}, told.groups, told.members)

    def _plan(self, network_id: str) -> NetworkPlan:
        plan = NetworkPlan(
            network_id=network_id,
            vifs=[vif for vif in self._vifs if vif.network_id == network_id],
            implicit_gateway=self._config.implicit_gateway,
            routers_gateways=self._gateways.get(network_id, []),
        )
        index = records.read(self._folder / "networks" / network_id / "transit")
        if not plan.routed or not index:
            return plan
        return structs.replace(plan, transit=transit_link(self._config.transit_cidr, int(index)))

    def _of_network(self, plan: NetworkPlan) -> list[str]:
        space = names.namespace(plan.network_id)
        if not linux.namespace_exists(space):
            return [f"its namespace {space} is missing"]
        master = names.bridge(plan.network_id) if self._config.plug == "bridge" else None
        found = _bridge(master, plan.mtu) if master else []
        found += _device(names.gate(plan.network_id), plan.mtu, master)
        if plan.transit:
            found += _device(names.transit(plan.network_id), plan.mtu)
        found += linux.inside(space, lambda: _inside(plan))
        if dhcp.is_needed(plan) and dhcp.running(self._folder / "networks" / plan.network_id) is None:
            found.append("its DHCP server does not run")
        return found

    def _of_port(self, vif: Vif) -> list[str]:
        if self._config.plug != "ovs-hybrid":
            return _device(vif.tap, vif.mtu, vif.bridge if self._config.plug == "bridge" else None)
        qbr, qvb, qvo = (make(vif.port_id) for make in (names.qbr, names.qvb, names.qvo))
        ends = [*_device(vif.tap, vif.mtu, qbr), *_device(qvb, vif.mtu, qbr), *_device(qvo, vif.mtu)]
        return _bridge(qbr, vif.mtu) + ends


def _all_of(folder: Path, kind: type[T]) -> list[T]:
    found = (_of(path, kind) for path in sorted(folder.glob("*.json")))
    return [one for one in found if one is not None]


def _of(path: Path, kind: type[T]) -> T | None:
    """None if it is not there (any more), or not readable: its owner makes it anew."""
    content = records.read(path)
    try:
        return codec.from_json(content, kind) if content else None
    except msgspec.MsgspecError:
        return None


def _bridge(name: str, mtu: int) -> list[str]:
    found, bridge = _device(name, mtu), linux.find(name)
    if bridge is not None and not bridge_settings.is_tracked(bridge):
        found.append(f"connection tracking of bridge {name} is off")
    if bridge is not None and not bridge_settings.is_limited(bridge):
        found.append(f"bridge {name} does not learn {bridge_settings.MOST_MACS} MACs at most")
    return found


def _device(name: str, mtu: int, master: str | None = None) -> list[str]:
    link, bridge = linux.find(name), linux.find(master) if master else None
    if link is None:
        return [f"device {name} is missing"]
    found = [] if link.up else [f"device {name} is down"]
    if link.mtu != mtu:
        found.append(f"device {name} has an MTU of {link.mtu}, not {mtu}")
    if bridge is not None and link.master != bridge.index:
        found.append(f"device {name} is not on {master}")
    return found


def _inside(plan: NetworkPlan) -> list[str]:
    """In the network's namespace."""
    found = _device(names.GUESTS, plan.mtu)
    if found:
        return found
    guests, mac = linux.find(names.GUESTS), names.guests_mac(plan.network_id)
    if guests is not None and guests.mac != mac:
        found.append(f"device {names.GUESTS} has the MAC {guests.mac}, not {mac}")
    with linux.netlink() as ip:
        have = {f"{m.get_attr('IFA_ADDRESS')}/{m['prefixlen']}" for m in ip.get_addr()}
        gateways = [route.get_attr("RTA_GATEWAY") for route in ip.get_default_routes(family=2)]
    wanted = [*plan.addresses, *plan.addresses6]
    found += [f"{text} is missing in its namespace" for text in wanted if text not in have]
    if plan.transit:
        found += _device(names.UPLINK, plan.mtu)
        if gateways != [plan.transit.host]:
            found.append("its way out is missing")
    found += rule_problems([firewall.namespace_table()])
    if not _metadata_listens():
        found.append("its metadata service does not listen (does Kilonova run?)")
    return found


def _metadata_listens() -> bool:
    address = "".join(f"{int(byte):02X}" for byte in reversed(METADATA_ADDRESS.split(".")))
    lines = Path("/proc/thread-self/net/tcp").read_text().splitlines()[1:]
    return any(line.split()[1:4:2] == [f"{address}:0050", _LISTENS] for line in lines)
