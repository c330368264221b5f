"""Open vSwitch, where the chosen plug joins guests to it."""

from __future__ import annotations

from collections.abc import Callable

from kilonova.cli import switch_checks
from kilonova.cli.doctor.check import Check, NotAsked, Where, apt, run, version

_BOTH = ("ovs-hybrid", "ovs")
_START = "systemctl start openvswitch-switch"


def _switched(look: Callable[[Where], str], *kinds: str) -> Callable[[Where], str]:
    """The look, if one of these plugs is chosen."""

    def asked(where: Where) -> str:
        if where.network.plug not in kinds:
            raise NotAsked
        return look(where)

    return asked


def _switch_ports(where: Where) -> str:
    if where.state is None:
        raise NotAsked
    return switch_checks.ports(where.network, where.state)


CHECKS = (
    Check(
        "Open vSwitch",
        _switched(lambda _: version(run("ovs-ofctl", "--version")), *_BOTH),
        "the chosen plug joins guests to it",
        apt("openvswitch-switch"),
    ),
    Check(
        "Open vSwitch's database",
        _switched(lambda where: switch_checks.database(where.network), *_BOTH),
        "no guest can be joined to its network, nor parted from it",
        _START,
    ),
    Check(
        "Open vSwitch's switch",
        _switched(lambda where: switch_checks.daemon(where.network), *_BOTH),
        "packets of guests go nowhere",
        _START,
    ),
    Check(
        "checksums of guests on Open vSwitch",
        _switched(lambda where: switch_checks.checksums(where.network), "ovs"),
        "guests could ping, and have no TCP: they are refused",
        "ovs-vsctl set Open_vSwitch . other_config:userspace-tso-enable=true;"
        " systemctl restart openvswitch-switch",
    ),
    Check(
        "ports of Open vSwitch",
        _switched(_switch_ports, *_BOTH),
        "these guests or networks are cut off; a compute that runs mends that within seconds",
        "",
    ),
)
