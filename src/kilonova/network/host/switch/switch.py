"""The integration bridge br-int in the switch's database: our ports on it, and each network's local VLAN tag.

Ports of one network have one tag, and the switch passes nothing from a tag to another: that is what keeps
networks apart. Which tag a network has is written beside the bridge, so it is the same after every restart of
whatever; in one transaction with the first port that has it.

The bridge may be there before us, with ports of others: those are never touched. One that was missing is made
and, with the last port on it, removed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any
from zlib import crc32

from kilonova.domain.errors import BuildFailed, Unavailable
from kilonova.domain.network import INTEGRATION_BRIDGE
from kilonova.network.host import names
from kilonova.network.host.switch import kernel, words
from kilonova.network.host.switch.database import Change, Database, Row, Tables
from kilonova.network.host.switch.port_flows import Seat

_TAGS = range(4094, 0, -1)
"""From above: Neutron's agent takes them from below."""

_USERSPACE = "netdev"

_NOWHERE = 4095
"""The one VLAN of a guest's port that only flows may lead to (Neutron's dead one). It is a trunk's, so what
has no VLAN header is of none: without flows nothing passes, whatever the bridge does by itself."""

_LET_GO = 3.0
"""Seconds that the switch has for letting go of devices; it needs milliseconds."""


_NEWS = 1.0
"""Seconds that a change in the database takes to us, at most."""


class Switch:
    """``needs_flows``: a bridge that we make passes nothing that no flow lets pass."""

    def __init__(self, socket: Path, folder: Path) -> None:
        self._socket = socket
        self._database = Database(socket)
        self._seen = -1
        self._seats: tuple[int, list[Seat]] | None = None
        """At which version of the database they were there: two hundred cost ten milliseconds to read."""
        self.owner = crc32(str(folder.resolve()).encode())
        """Marks what is ours in the switch, 32 bits."""
        self.needs_flows = False

    # --- what is there
    def in_userspace(self) -> bool:
        """Whether packets pass through the switch's process, as there is no kernel module for them."""
        there = self._database.look(_bridge_datapath)
        return not kernel.has_datapath() if there is None else there == _USERSPACE

    def segments(self) -> bool:
        """Whether the switch itself takes over checksums and segmentation (which it does from its start)."""
        return bool(
            self._database.look(lambda at: at.root.other_config.get("userspace-tso-enable")) == "true"
        )

    def identity(self) -> object:
        """Of the bridge: one that was made anew has another. None: there is none."""
        return self._database.look(lambda at: bridge.uuid if (bridge := _bridge(at)) else None)

    def is_gone(self, bridge: object) -> bool:
        """Whether the bridge with that identity is there no more; the switch may know it before we do."""

        def look(at: Tables) -> bool | None:
            now = _bridge(at)
            return True if now is None or now.uuid != bridge else None

        return bool(self._database.wait(look, _NEWS))

    def is_ours(self) -> bool:
        return self._database.look(lambda at: _is_ours(_bridge(at)))

    def folder(self) -> Path:
        """Where the switch has its sockets."""
        folder = self._database.look(lambda at: at.root.external_ids.get("rundir"))
        return Path(folder or self._socket.parent)

    def control(self) -> Path:
        """The socket on which the bridge speaks OpenFlow."""
        return self.folder() / f"{INTEGRATION_BRIDGE}.mgmt"

    def ours(self) -> set[str]:
        """Names of the bridge's ports that this host made."""
        return self._database.look(lambda at: self._ours(_bridge(at)))

    def problems(self, names: Collection[str]) -> list[str]:
        """What the switch says, or does not say, of these ports of the bridge; empty if all is well."""

        def look(at: Tables) -> list[str]:
            bridge = _bridge(at)
            if bridge is None:
                return [f"there is no {INTEGRATION_BRIDGE}"] if names else []
            rows = {port.name: port for port in bridge.ports}
            missing = [f"port {name} is missing" for name in sorted(set(names) - set(rows))]
            interfaces = [one for name in sorted(names) if name in rows for one in rows[name].interfaces]
            return missing + [error for interface in interfaces for error in interface.error]

        return self._database.look(look)

    def seats(self) -> list[Seat]:
        """The ports of ours that the switch has taken; not to be changed."""

        def look(at: Tables) -> list[Seat]:
            known = self._seats
            if known is None or known[0] != at.version:
                known = self._seats = at.version, self._seats_of(_bridge(at))
            return known[1]

        return self._database.look(look)

    def changed(self) -> bool:
        """Whether anything changed in the database since the last call; true at the first."""
        seen, self._seen = self._seen, self._database.changes()
        return seen != self._seen

    def on_change(self, tell: Callable[[], None]) -> None:
        """``tell()`` is called, in the database's thread, with each change."""
        self._database.on_change(tell)

    # --- what should be
    def ensure_port(
        self, name: str, device: int, network_id: str, said: dict[str, str], *, closed: bool = False
    ) -> list[str]:
        """The device of that name and number is a port of the bridge, with the network's tag: one
        transaction, if any; two if the switch has an earlier device of the name. ``closed``: nothing comes
        to it or from it but by flows."""
        said = self._said(device, said)
        done: list[str] = []
        if self._database.look(lambda at: _has_another_device(at, name, device)):
            self.remove_port(name)
        if self._database.look(lambda at: self._wrong(at, name, network_id, said, closed)):
            done = self._database.change(lambda at: self._join(at, name, network_id, said, closed))
        if self._database.wait(lambda at: _number(at, name)) is None:
            raise Unavailable(f"Open vSwitch has not taken {name}: does ovs-vswitchd run?")
        return done

    def look_at(
        self, name: str, device: int, network_id: str, said: dict[str, str], *, closed: bool = False
    ) -> list[str]:
        """What ensure_port() would set right of a port that is there; problems() tells of the others."""
        said = self._said(device, said)

        def look(at: Tables) -> list[str]:
            there = at.named("Port", name) is not None
            return self._wrong(at, name, network_id, said, closed) if there else []

        return self._database.look(look)

    def _said(self, device: int, said: dict[str, str]) -> dict[str, str]:
        return said | {words.OWNER: f"{self.owner:08x}", words.DEVICE: str(device)}

    def remove_port(self, name: str) -> None:
        if self._database.look(lambda at: at.named("Port", name)) is not None:
            self._remove(lambda at: self._part(at, {name}, set()))

    def remove_network(self, gate: str, network_id: str) -> None:
        """The network's gate and tag are gone."""
        key = words.tag_key(network_id)

        def there(at: Tables) -> bool:
            bridge = _bridge(at)
            return bridge is not None and (key in bridge.external_ids or at.named("Port", gate) is not None)

        if self._database.look(there):
            self._remove(lambda at: self._part(at, {gate}, {network_id}))

    def remove_others(
        self, names: Callable[[], Collection[str]], networks: Callable[[], Collection[str]]
    ) -> None:
        """Of what this host made, only these ports and networks are left. Asked while the database stands
        still: whoever joins a port at this moment is known already, or is not in it yet."""

        def strays(at: Tables) -> tuple[set[str], set[str]]:
            bridge = _bridge(at)
            if bridge is None:
                return set(), set()
            ours = self._ours(bridge)
            used = {port.external_ids.get(words.NETWORK) for port in bridge.ports if port.name not in ours}
            return ours - set(names()), set(words.tags(bridge.external_ids)) - set(networks()) - used

        if any(self._database.look(strays)):
            self._remove(lambda at: self._part(at, *strays(at)))

    def close(self) -> None:
        self._database.close()
        self._seats = None

    def _remove(self, act: Callable[[Change], None]) -> None:
        """And the switch has let go of the devices: one that came back at once would be taken for the old.
        A switch that does not run has none."""
        self._database.change(act)
        self._database.wait(lambda at: True if at.root.cur_cfg >= at.root.next_cfg else None, _LET_GO)

    # --- in a transaction
    def _is_our_port(self, port: Row) -> bool:
        return bool(port.external_ids.get(words.OWNER) == f"{self.owner:08x}")

    def _ours(self, bridge: Row | None) -> set[str]:
        ports = bridge.ports if bridge is not None else []
        return {port.name for port in ports if self._is_our_port(port)}

    def _seats_of(self, bridge: Row | None) -> list[Seat]:
        if bridge is None:
            return []
        tags = words.tags(bridge.external_ids)
        found = []
        for port in bridge.ports:
            network_id = port.external_ids.get(words.NETWORK)
            numbers = [number for one in port.interfaces for number in one.ofport if number > 0]
            if self._is_our_port(port) and network_id in tags and numbers:
                is_gate = port.name == names.gate(network_id)
                gate = names.guests_mac(network_id) if is_gate else None
                found.append(Seat(port.name, int(numbers[0]), tags[network_id], gate))
        return sorted(found)

    def _wrong(self, at: Tables, name: str, network_id: str, said: dict[str, str], closed: bool) -> list[str]:
        """What is not as it should be of the port, in a reader's words."""
        bridge, port = _bridge(at), at.named("Port", name)
        if bridge is None or port is None or port not in bridge.ports:
            return [f"port {name} is not on {INTEGRATION_BRIDGE}"]
        tags = words.tags(bridge.external_ids)
        if network_id not in tags:
            return [f"{INTEGRATION_BRIDGE} has no VLAN tag for network {network_id}"]
        found = []
        if _vlans_of(port) != (wanted := _vlans(tags[network_id], closed)):
            found.append(f"port {name} has {_shown(_vlans_of(port))}, not {_shown(wanted)}")
        for row in (port, *port.interfaces):
            have = row.external_ids
            unsaid = sorted(f"{word}={value}" for word, value in said.items() if have.get(word) != value)
            found += [f"port {name} does not say {', '.join(unsaid)}"] if unsaid else []
        if _is_ours(bridge) and bridge.fail_mode != self._fail_mode():
            found.append(f"{INTEGRATION_BRIDGE} has another fail_mode")
        return list(dict.fromkeys(found))

    def _join(self, at: Change, name: str, network_id: str, said: dict[str, str], closed: bool) -> list[str]:
        done: list[str] = []
        bridge = _bridge(at)
        if bridge is None:
            bridge = self._make_bridge(at)
            done.append(f"switch {INTEGRATION_BRIDGE} made")
        elif _is_ours(bridge) and bridge.fail_mode != self._fail_mode():
            bridge.fail_mode = self._fail_mode()
        tag = _tag(bridge, network_id)
        port = at.named("Port", name)
        if port is not None and port not in bridge.ports:
            raise BuildFailed(f"{name} is on another bridge of Open vSwitch")
        vlans = _vlans(tag, closed)
        if port is None:
            interface = at.insert("Interface", name=name, external_ids=said)
            port = at.insert("Port", name=name, interfaces=[interface], external_ids=said, **vlans)
            bridge.addvalue("ports", port)
            return [*done, f"port {name} of {INTEGRATION_BRIDGE} made"]
        for column, value in vlans.items():
            setattr(port, column, value)
        for row in (port, *port.interfaces):
            row.external_ids = row.external_ids | said
        return [*done, f"port {name} of {INTEGRATION_BRIDGE} set right"]

    def _part(self, at: Change, names: set[str], networks: set[str]) -> None:
        bridge = _bridge(at)
        if bridge is None:
            return
        at.root.increment("next_cfg")
        left = []
        for port in bridge.ports:
            if port.name in names:
                bridge.delvalue("ports", port)
            else:
                left.append(port.name)
        for network_id in networks:
            bridge.delkey("external_ids", words.tag_key(network_id))
        tags = set(words.tags(bridge.external_ids)) - networks
        if _is_ours(bridge) and not tags and left == [INTEGRATION_BRIDGE]:
            bridge.verify("ports")
            bridge.verify("external_ids")
            at.root.delvalue("bridges", bridge)

    def _make_bridge(self, at: Change) -> Row:
        said = {words.OWNER: "made"}
        interface = at.insert("Interface", name=INTEGRATION_BRIDGE, type="internal")
        port = at.insert("Port", name=INTEGRATION_BRIDGE, interfaces=[interface], tag=[], trunks=[])
        bridge = at.insert("Bridge", name=INTEGRATION_BRIDGE, ports=[port], external_ids=said)
        bridge.datapath_type = "system" if kernel.has_datapath() else _USERSPACE
        bridge.fail_mode = self._fail_mode()
        at.root.addvalue("bridges", bridge)
        return bridge

    def _fail_mode(self) -> list[str]:
        return ["secure"] if self.needs_flows else []


def _bridge(at: Tables) -> Row | None:
    return at.named("Bridge", INTEGRATION_BRIDGE)


def _bridge_datapath(at: Tables) -> str | None:
    bridge = _bridge(at)
    return None if bridge is None else str(bridge.datapath_type)


def _is_ours(bridge: Row | None) -> bool:
    return bridge is not None and words.OWNER in bridge.external_ids


def _tag(bridge: Row, network_id: str) -> int:
    """The network's, as it is written, or a free one, which is written now."""
    tags = words.tags(bridge.external_ids)
    if network_id in tags:
        return tags[network_id]
    bridge.verify("external_ids")  # another agent may choose at this moment
    taken = {*tags.values(), *(tag for port in bridge.ports for tag in (*port.tag, *port.trunks))}
    free = next((tag for tag in _TAGS if tag not in taken), None)
    if free is None:
        raise BuildFailed(f"{INTEGRATION_BRIDGE} has no VLAN tag left for another network")
    bridge.setkey("external_ids", words.tag_key(network_id), str(free))
    return free


def _vlans(tag: int, closed: bool) -> dict[str, list[Any]]:
    """Columns of a port that is of the network with that tag, by itself or by flows alone."""
    if closed:
        return {"vlan_mode": ["trunk"], "tag": [], "trunks": [_NOWHERE]}
    return {"vlan_mode": [], "tag": [tag], "trunks": []}


def _vlans_of(port: Row) -> dict[str, list[Any]]:
    return {"vlan_mode": port.vlan_mode, "tag": port.tag, "trunks": port.trunks}


def _shown(vlans: dict[str, list[Any]]) -> str:
    said = [f"{column}={value}" for column, values in vlans.items() for value in values]
    return " ".join(said) or "no VLAN"


def _has_another_device(at: Tables, name: str, device: int) -> bool:
    port = at.named("Port", name)
    return port is not None and port.external_ids.get(words.DEVICE, str(device)) != str(device)


def _number(at: Tables, name: str) -> int | None:
    """None until the switch has taken the port. BuildFailed: it says that it cannot."""
    interface = at.named("Interface", name)
    if interface is None or not interface.ofport:
        return None
    if interface.ofport[0] < 1:
        raise BuildFailed(f"Open vSwitch: {' '.join(interface.error) or f'no port {name}'}")
    return int(interface.ofport[0])
