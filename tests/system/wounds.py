"""What others may do to a host's network behind its agent's back, one thing each; what the doctor says of it.

For the story that breaks all of it (test_network_story.py), and for who measures how soon it is mended
(bench/mending.py).
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tests.openvswitch import OpenVSwitch

from kilonova.cli import network_checks, switch_checks
from kilonova.config import load
from kilonova.domain.errors import KilonovaError
from kilonova.domain.network import PlugKind
from kilonova.network.host import findings, names
from kilonova.network.host.findings import Found
from kilonova.virt.libvirt.needs import Lacking


class Wound(NamedTuple):
    done: Callable[[], object]
    """To the host."""
    named: str
    """What the doctor says of it while it is so, in these words."""
    mended: str
    """And afterwards. Empty: there is nothing to be mended when the switch is back."""
    what: str
    """For a reader."""


@dataclass(frozen=True)
class Host:
    """A Kilonova's, with two guests on a network each, and a router between these."""

    state: Path
    plug: PlugKind
    switch: OpenVSwitch | None
    network: str
    """The first guest's."""
    ports: tuple[str, str]
    router: str
    dhcp: Callable[[], int]
    """The pid of that network's DHCP server."""

    # --- what is said of it
    def doctor(self) -> list[str]:
        """What `kilonova doctor` says of this host's network now."""
        options = load(self.state / "test.toml").network
        said = network_checks.problems(network_checks.hosts(self.state), options)
        if self.switch:
            for look in (switch_checks.database, switch_checks.daemon):
                said += _said(lambda look=look: look(options))  # type: ignore[misc]
            said += _said(lambda: switch_checks.ports(options, self.state))
        return said

    def mended(self, what: str) -> list[Found]:
        """Of all that the host keeps; the doctor shows the latest."""
        (folder,) = network_checks.hosts(self.state).values()
        return [one for one in findings.read(folder / findings.FILE) if one.mended and what in one.what]

    # --- wounds
    def wounds(self) -> list[list[Wound]]:
        """What may be done at the same time stands together."""
        return [self._of_a_network(), self._of_namespaces(), self._of_the_plug(), *self._of_the_switch()]

    def _of_a_network(self) -> list[Wound]:
        gate, table = names.gate(self.network), "firewall table"
        killed = "its DHCP server does not run"
        return [
            Wound(_does("nft", "flush", "ruleset"), table, table, "nft flush ruleset"),
            Wound(self._kill_dhcp, killed, "DHCP server started", "dnsmasq killed"),
            Wound(
                _does("ip", "link", "del", gate), f"device {gate} is missing", gate, "the gate's veth removed"
            ),
        ]

    def _kill_dhcp(self) -> None:
        os.kill(self.dhcp(), signal.SIGKILL)

    def _of_namespaces(self) -> list[Wound]:
        own, router = names.namespace(self.network), names.router(self.router)
        gone = "{} is missing".format
        return [
            Wound(
                _does("ip", "netns", "del", own), gone(own), f"namespace {own} made", "a network's namespace"
            ),
            Wound(_does("ip", "netns", "del", router), gone(router), f"router {self.router}", "a router's"),
        ]

    def _of_the_plug(self) -> list[Wound]:
        one, two = self.ports
        if self.switch is None:
            bridge, tap = names.bridge(self.network), names.tap(one)
            off = _does("ip", "link", "set", tap, "nomaster")
            return [
                Wound(off, f"device {tap} is not on {bridge}", tap, "a tap off its bridge"),
                Wound(
                    _does("ip", "link", "del", bridge),
                    f"device {bridge} is missing",
                    bridge,
                    "a bridge removed",
                ),
            ]
        own = names.qvo(one) if self.plug == "ovs-hybrid" else names.tap(one)
        port, vsctl = f"port {own}", self.switch.command
        parted = [
            Wound(_does(*vsctl, "set", "Port", own, "tag=77"), f"{port} has", port, "a port's VLAN changed"),
            Wound(_does(*vsctl, "del-port", own), f"{port} is missing", port, "a port removed"),
        ]
        if self.plug == "ovs-hybrid":
            return parted + [
                Wound(_does("ip", "link", "del", name), f"device {name} is missing", name, f"{kind}… removed")
                for kind, name in (("qvb", names.qvb(two)), ("qbr", names.qbr(two)))
            ]
        control, flows = f"unix:{self.switch.folder / 'br-int.mgmt'}", "flows of br-int"
        some, every = (_does("ovs-ofctl", "del-flows", control, *which) for which in (["table=110,ip"], []))
        return [
            Wound(some, flows, flows, "some flows deleted"),
            Wound(every, flows, flows, "all flows deleted"),
            *parted,
        ]

    def _of_the_switch(self) -> list[list[Wound]]:
        """It is started anew (by who wounds it so); and its bridge is gone."""
        if self.switch is None:
            return []
        flows = "flows of br-int" if self.plug == "ovs" else ""
        without = _does(*self.switch.command, "del-br", "br-int")
        return [
            [Wound(self.switch.kill, "no answer at", flows, "Open vSwitch killed, and started")],
            [Wound(without, "there is no br-int", "br-int made", "br-int removed")],
        ]


def _said(look: Callable[[], str]) -> list[str]:
    try:
        look()
    except (Lacking, KilonovaError) as error:
        return [str(error)]
    return []


def _does(*command: str) -> Callable[[], object]:
    return lambda: subprocess.run(command, check=True, capture_output=True)
