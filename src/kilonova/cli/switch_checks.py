"""What ``kilonova doctor`` says of Open vSwitch, for the plugs that need it: does it answer, and does it have
what this host's guests need. Looks, and changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec

from kilonova import config
from kilonova.domain import codec
from kilonova.domain.errors import KilonovaError
from kilonova.domain.network import Vif
from kilonova.virt.libvirt.needs import Lacking

T = TypeVar("T")


def database(options: config.Network) -> str:
    from kilonova.network.host.switch.database import accepts

    path = config.unix_socket(options.ovsdb_connection)
    if not accepts(path):
        raise Lacking(f"no answer at {options.ovsdb_connection}")
    return "answers"


def daemon(options: config.Network) -> str:
    """ovs-vswitchd has a control socket for as long as it runs, and leaves it behind when it is killed."""
    from kilonova.network.host.switch.database import accepts

    folder = config.unix_socket(options.ovsdb_connection).parent
    database(options)
    if not any(accepts(path) for path in folder.glob("ovs-vswitchd.*.ctl")):
        raise Lacking(f"no process answers in {folder}")
    return "runs"


def checksums(options: config.Network) -> str:
    from kilonova.network.host.switch import Switch

    database(options)
    switch = Switch(config.unix_socket(options.ovsdb_connection), Path("/nonexistent"))
    try:
        if not switch.in_userspace():
            return "left to the kernel"
        if not switch.segments():
            raise Lacking("left unmade, as the switch works without its kernel module")
        return "made by the switch"
    except KilonovaError as error:
        raise Lacking(error.message) from error
    finally:
        switch.close()


def ports(options: config.Network, state: Path) -> str:
    """Every port that the records of this state folder's hosts have is on the switch."""
    from kilonova.network.host.plug import on_switch, routers_on_switch
    from kilonova.network.host.router_records import Record
    from kilonova.network.host.switch import Switch

    database(options)
    vifs, records = _recorded(state, "ports", Vif), _recorded(state, "routers", Record)
    wanted = set().union(
        *(on_switch(options.plug, vif) for vif in vifs),
        *(routers_on_switch(options.plug, record.state) for record in records),
    )
    switch = Switch(config.unix_socket(options.ovsdb_connection), Path("/nonexistent"))
    try:
        problems = switch.problems(wanted)
    except KilonovaError as error:
        raise Lacking(error.message) from error
    finally:
        switch.close()
    if problems:
        raise Lacking("; ".join(problems))
    return f"all {len(wanted)} are there"


def _recorded(state: Path, what: str, kind: type[T]) -> list[T]:
    found = []
    for path in state.glob(f"hosts/*/network/{what}/*.json"):
        try:
            found.append(codec.from_json(path.read_bytes(), kind))
        except (OSError, msgspec.MsgspecError) as error:
            raise Lacking(f"{path}: {error}") from error
    return found
