"""What should be loaded on a host: its tables, made of what is known of its ports (firewall.py, security.py).

All of them are one transaction of nft, so one word that it does not take would keep all ports from their
rules. What is at fault, a port, a group or a group's members, is found by halves in an empty namespace, and
left closed until it is another word: the port passes nothing, the group lets nothing pass, it has no members.

Not thread-safe: perimeter.py holds its lock.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, TypeVar

from msgspec import structs

from kilonova import log
from kilonova.config import Network
from kilonova.domain.network import Vif
from kilonova.domain.security_groups import Filter
from kilonova.network.host import faults, firewall, linux, names, nft, past_switch, security
from kilonova.network.host.endings import Rights, View
from kilonova.network.host.knowledge import Known
from kilonova.network.host.plug import Filters, Plug, on_switch

_log = log.get("network.host")

T = TypeVar("T")
M = TypeVar("M")

Tables = tuple[nft.Table, ...]
Part = tuple[str, str]
"""What may be at fault: its kind and its id."""

_PORT, _GROUP, _MEMBERS = "port", "security group", "members of security group"


class Wanted:
    """``zone_of``: the number of a network's or a port's connections (records.Records.zone)."""

    def __init__(self, config: Network, name: str, zone_of: Callable[[str], int], plug: Plug) -> None:
        self._config = config
        self._name = name
        self._zone_of = zone_of
        self._plug = plug
        self._made: dict[Part, tuple[Any, Any]] = {}
        """Chains and sets as they were made last, and of what: two hundred ports cost more to make than to
        compare."""
        self._refused: dict[Part, Any] = {}
        """What nft did not take."""

    @property
    def guards(self) -> bool:
        """Whether what passes to and from guests is said here, in the family bridge; else the plug sees to
        it."""
        return self._plug.filters is Filters.BRIDGE

    def tables(self, vifs: Collection[Vif], known: Known) -> Tables:
        """All that should be loaded for these ports."""
        switched = self.switched(vifs)
        host = firewall.host_table(
            self._name,
            [names.transit(network) for network in sorted({vif.network_id for vif in vifs})],
            self.zones(vifs),
            self._config.transit_cidr,
            self._config.nat,
            self._owners(vifs, known),
            switched,
        )
        bridged = (self._bridge_table(vifs, known),) if self.guards else ()
        return (*bridged, host, *(() if switched is None else (past_switch.arp_table(self._name, switched),)))

    def switched(self, vifs: Iterable[Vif]) -> set[str] | None:
        """The ports of the switch that these need; None: the plug uses none."""
        if self._plug.kind == "bridge":
            return None
        return {port for vif in vifs for port in on_switch(self._plug.kind, vif)}

    def view(self, vifs: Iterable[Vif], known: Known) -> View:
        """What connections of these ports are held against."""
        of_groups: dict[tuple[str, ...], tuple[list[Filter], dict[str, list[str]]]] = {}
        rights, zones = [], {}
        for vif in vifs:
            applied, bridge = self.applied(vif, known), self._plug.bridge(vif)
            if bridge is None:
                continue
            zones[zone := self._zone_of(bridge.owner)] = vif.network_id
            if not applied.port_security or applied.security_groups is None:
                rights.append(Rights(applied, zone, None, {}))
            else:
                groups = tuple(applied.security_groups)
                if groups not in of_groups:
                    filters = [one for group in groups for one in self.filters(group, known)]
                    remotes = security.remotes_of(filters)
                    of_groups[groups] = filters, {one: self.members(one, known) for one in remotes}
                rights.append(Rights(applied, zone, *of_groups[groups]))
        return View(rights, zones)

    # What is known, but for what was refused
    def applied(self, vif: Vif, known: Known) -> Vif:
        told = known.applied(vif)
        if not self._is_refused((_PORT, vif.port_id), told):
            return told
        return structs.replace(told, port_security=True, security_groups=[], allowed_address_pairs=[])

    def filters(self, group_id: str, known: Known) -> list[Filter]:
        told = known.filters(group_id)
        return [] if self._is_refused((_GROUP, group_id), told) else told

    def members(self, group_id: str, known: Known) -> list[str]:
        told = known.members(group_id)
        return [] if self._is_refused((_MEMBERS, group_id), told) else told

    def _is_refused(self, part: Part, told: Any) -> bool:
        return part in self._refused and bool(self._refused[part] == told)

    # Making
    def _bridge_table(self, plugged: Collection[Vif], known: Known) -> nft.Table:
        vifs = [self.applied(vif, known) for vif in plugged]
        groups = {group: self._group(group, known) for group in _groups_of(vifs)}
        remotes = _remotes_of({group: self.filters(group, known) for group in groups})
        table = firewall.bridge_table(
            self._name,
            vifs,
            {device: names.guests_mac(vif.network_id) for vif in vifs for device in self._plug.inner(vif)},
            groups,
            [one for group in sorted(remotes) for one in self._members(group, known)],
            lambda vif: self._port(vif, known),
        )
        used = {(_PORT, vif.port_id) for vif in vifs} | {(_GROUP, group) for group in groups}
        used |= {(_MEMBERS, group) for group in remotes}
        for memory in (self._made, self._refused):
            for part in memory.keys() - used:
                del memory[part]
        return table

    def _port(self, vif: Vif, known: Known) -> list[nft.Chain]:
        part = _PORT, vif.port_id
        if self._is_refused(part, known.applied(vif)):
            return firewall.closed_port_chains(vif)
        return self._make(part, vif, firewall.port_chains)

    def _group(self, group_id: str, known: Known) -> list[nft.Chain]:
        told = self.filters(group_id, known)
        return self._make((_GROUP, group_id), told, lambda rules: security.group_chains(group_id, rules))

    def _members(self, group_id: str, known: Known) -> list[nft.Set]:
        told = self.members(group_id, known)
        return self._make((_MEMBERS, group_id), told, lambda all_: security.member_sets(group_id, all_))

    def _make(self, part: Part, told: T, make: Callable[[T], M]) -> M:
        known = self._made.get(part)
        if known is None or known[0] != told:
            known = self._made[part] = told, make(told)
        made: M = known[1]
        return made

    def zones(self, vifs: Collection[Vif]) -> dict[str, int]:
        """Bridge → the zone of its connections."""
        bridges = sorted({bridge for vif in vifs if (bridge := self._plug.bridge(vif))})
        return {bridge.name: self._zone_of(bridge.owner) for bridge in bridges}

    def _owners(self, vifs: Collection[Vif], known: Known) -> dict[int, dict[str, str]]:
        """Zone → address → whose it is, if that port is guarded: others vouch for nothing that they send."""
        owners: dict[int, dict[str, str]] = {}
        for vif in vifs:
            bridge = self._plug.bridge(vif)
            if bridge and self.applied(vif, known).port_security:
                own = owners.setdefault(self._zone_of(bridge.owner), {})
                own |= {address.ip: vif.port_id for address in vif.addresses}
        return owners

    # What is at fault
    def close_faults(self, vifs: Collection[Vif], known: Known) -> bool:
        """Whether something was at fault; that is left closed from now on, and named in the log."""
        if not self.guards:
            return False
        ports = [self.applied(vif, known) for vif in vifs]
        groups = _groups_of(ports)
        remotes = _remotes_of({group: self.filters(group, known) for group in groups})
        told: dict[Part, Any] = {(_PORT, vif.port_id): known.applied(vif) for vif in vifs}
        told |= {(_GROUP, group): known.filters(group) for group in groups}
        told |= {(_MEMBERS, group): known.members(group) for group in remotes}
        suspects = [part for part in told if not self._is_refused(part, told[part])]

        def loads(parts: Sequence[Part]) -> str | None:
            try:
                nft.apply(nft.replace(self._only(parts, vifs, known)))
            except (nft.Refused, ValueError) as error:
                return str(error)
            return None

        found = linux.aside(lambda: None if loads([]) else faults.find(suspects, loads))
        for part, reason in (found or {}).items():
            _log.error("left_closed", what=" ".join(part), reason=reason)
            self._refused[part] = told[part]
        return bool(found)

    def _only(self, parts: Sequence[Part], vifs: Collection[Vif], known: Known) -> nft.Table:
        """A table with these parts, as they are, and none of the others but what these name."""
        ports = [known.applied(vif) for vif in vifs if (_PORT, vif.port_id) in parts]
        groups = {group: security.group_chains(group, []) for group in _groups_of(ports)}
        own = {id_: known.filters(id_) for kind, id_ in parts if kind == _GROUP}
        sets = {remote: security.member_sets(remote, []) for remote in _remotes_of(own)}
        groups |= {group: security.group_chains(group, rules) for group, rules in own.items()}
        sets |= {
            id_: security.member_sets(id_, known.members(id_)) for kind, id_ in parts if kind == _MEMBERS
        }
        members = [one for both in sets.values() for one in both]
        return firewall.bridge_table(self._name, ports, {}, groups, members)


def _groups_of(vifs: Collection[Vif]) -> list[str]:
    return sorted({group for vif in vifs if vif.port_security for group in vif.security_groups or ()})


def _remotes_of(groups: dict[str, list[Filter]]) -> set[str]:
    return security.remotes_of([one for filters in groups.values() for one in filters])
