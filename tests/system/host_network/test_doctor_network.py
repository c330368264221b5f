"""``kilonova doctor`` of a host with guests: what is wrong with their networks, and what was mended."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from click.testing import CliRunner
from msgspec import structs
from tests.system.host_network.lab import Lab, make_vif, run
from tests.system.host_network.six import DHCP, dual_vif, own, subnet6

from kilonova.cli import doctor as module
from kilonova.cli.doctor import CHECKS, doctor
from kilonova.domain.network import VifAddress
from kilonova.network.host import findings, linux, names, rtnl

pytestmark = pytest.mark.system


@pytest.fixture(autouse=True)
def only_this(monkeypatch: pytest.MonkeyPatch) -> None:
    only = tuple(check for check in CHECKS if check.name == "networks of guests")
    assert only
    monkeypatch.setattr(module, "CHECKS", only)


@pytest.fixture
def state(open_folder: Path, own_host: None) -> Path:
    folder = open_folder / "state"
    (folder / "hosts/h1").mkdir(parents=True)
    folder.chmod(0o711)
    return folder


@pytest.fixture
def lab(state: Path) -> Iterator[Lab]:
    one = Lab(state / "hosts/h1")
    yield one
    one.close()


def asked(state: Path, *options: str) -> Any:
    return CliRunner().invoke(doctor, ["--state", str(state), *options], terminal_width=300)


def told(state: Path) -> list[tuple[str, str, str]]:
    """State, check and what was found."""
    found = json.loads(asked(state, "--json").output)
    return [(one["state"], one["check"], one["found"]) for one in found]


def test_a_machine_without_guests(state: Path) -> None:
    assert told(state) == []


def test_what_is_wrong_and_what_was(lab: Lab, state: Path) -> None:
    guest = lab.guest(5)
    lab.host.repair()
    assert ("ok", "networks of guests", "as recorded") in told(state)
    (lab.folder / "network" / findings.FILE).unlink(missing_ok=True)

    run("ip", "link", "set", guest.vif.tap, "nomaster")
    run("nft", "flush", "ruleset")
    ((now, _, found),) = told(state)
    assert now == "missing"
    assert f"port {guest.vif.port_id}: device {guest.vif.tap} is not on {guest.vif.bridge}" in found
    assert re.search("firewall rules: firewall table bridge kilonova-[0-9a-f]{8} is missing", found)
    assert asked(state).exit_code == 1

    lines = lab.host.repair()
    after = told(state)
    assert after[0] == ("ok", "networks of guests", "as recorded")
    assert [what for kind, check, what in after if (kind, check) == ("mended", "network of h1")] == lines
    shown = asked(state)
    assert shown.exit_code == 0
    assert "mended" in shown.output
    assert re.search(r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d", shown.output)


def test_ipv6(lab: Lab, state: Path) -> None:
    """One guest has nothing else, and its network no way out by the host; one has both versions."""
    forwarding = Path("/proc/sys/net/ipv4/ip_forward")
    before = forwarding.read_text()
    forwarding.write_text("0")
    network, of = str(uuid4()), subnet6()
    alone = make_vif(of=lab.subnet, number=5, network_id=network)
    address = VifAddress(ip=own(alone.mac), subnet=of)
    lab.host.plug(structs.replace(alone, addresses=[address]))
    lab.host.repair()
    assert now(state) == ("ok", "as recorded")
    lab.host.plug(dual_vif(lab, of, 6))
    lab.host.repair()
    assert now(state) == ("ok", "as recorded")
    space = names.namespace(network)
    run("ip", "-n", space, "addr", "del", f"{DHCP}/64", "dev", names.GUESTS)
    assert now(state) == ("missing", f"network {network}: {DHCP}/64 is missing in its namespace")
    lab.host.repair()
    assert now(state) == ("ok", "as recorded")
    run("ip", "netns", "exec", space, "nft", "delete", "table", "ip", "kilonova")
    learns_without_end(names.bridge(network))
    _, found = now(state)
    assert "firewall table ip kilonova is missing" in found, "how often the metadata service is asked"
    limited = f"bridge {names.bridge(network)} does not learn 16384 MACs at most"
    assert (limited in found) is has_limit(names.bridge(network))
    assert lab.host.repair()
    assert now(state) == ("ok", "as recorded")
    for port_id in lab.host.plugged():
        lab.host.unplug(port_id)
    forwarding.write_text(before)


_MOST_LEARNED = 49
"""linux/if_link.h: IFLA_BR_FDB_MAX_LEARNED."""


def has_limit(bridge: str) -> bool:
    link = rtnl.link(bridge)
    return link is not None and _MOST_LEARNED in link.data


def learns_without_end(bridge: str) -> None:
    if has_limit(bridge):
        rtnl.change_bridge(linux.index_of(bridge), {_MOST_LEARNED: bytes(4)})


def now(state: Path) -> tuple[str, str]:
    ((kind, found),) = [(one, what) for one, check, what in told(state) if check == "networks of guests"]
    return kind, found


def test_what_could_not_be_mended_is_told(
    lab: Lab, state: Path, monkeypatch: pytest.MonkeyPatch, clock: Callable[[float], None]
) -> None:
    kept = findings.Findings(lab.folder / "network")
    clock(1_000_000)
    kept.mended(["too long ago"])
    clock(1_080_000)
    for _ in range(3):
        kept.failed("no switch")
    clock(1_100_000)
    (one,) = [one for one in json.loads(asked(state, "--json").output) if one["check"] == "network of h1"]
    assert (one["state"], one["found"]) == ("failed", "no switch")
    assert one["meaning"].startswith("3 times from 1970-01-13 ")
    assert asked(state).exit_code == 0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    from kilonova.cli import network_checks

    def set_to(time: float) -> None:
        for place in (findings, network_checks):
            monkeypatch.setattr(place, "now", lambda: time)

    return set_to


def test_of_many_things_the_latest_are_shown_and_the_others_counted(state: Path) -> None:
    folder = state / "hosts" / "h1" / "network"
    folder.mkdir(parents=True, exist_ok=True)
    kept = findings.Findings(folder)
    kept.mended([f"thing {number} of many" for number in range(32)])
    shown = asked(state).output
    assert "(2 earlier ones of the last day: --json)" in shown
    assert [number for number in range(32) if f"thing {number} of" in shown] == list(range(2, 32))
    assert len([one for one in json.loads(asked(state, "--json").output) if one["state"] == "mended"]) == 32
