"""What nft does not take closes whom it concerns and nobody else; without rules nobody is joined."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest
from msgspec import structs
from structlog.testing import capture_logs
from tests.plugs import plug_lab
from tests.system.host_network.lab import Guest, Lab, eventually, make_vif, run
from tests.system.host_network.test_host_network_security import CLIENTS, WEB, Two, tcp, two_in
from tests.system.host_network.test_host_routers import interface

from kilonova.config import Config
from kilonova.domain.errors import BuildFailed
from kilonova.domain.network import AddressPair, NetworkState, PortSecurity, Vif
from kilonova.domain.routers import HostRouters, RouterState
from kilonova.domain.security_groups import IPV4, Filter
from kilonova.network.host import findings, firewall, nft

pytestmark = pytest.mark.system

BACKWARDS = Filter(direction="ingress", ethertype=IPV4, protocol=6, port_min=9, port_max=3)
"""nft: Range has zero or negative size."""


@pytest.fixture
def two() -> Iterator[Two]:
    with plug_lab("bridge") as lab:
        yield from two_in(lab)


def test_a_group_that_cannot_be_loaded(two: Two) -> None:
    port = two.service.port
    two.tell(tcp(port))
    assert eventually(two.reaches)
    with capture_logs() as said:
        two.tell(tcp(port), BACKWARDS)
    assert not two.reaches(), "nothing passes by that group"
    assert [line["what"] for line in said if line["event"] == "left_closed"] == [f"security group {WEB}"]
    two.tell(tcp(port), BACKWARDS, out=())
    third = two.lab.guest(7, security_groups=[])
    two.lab.restart()
    run("nft", "flush", "ruleset")
    assert two.lab.host.repair()
    assert not two.reaches()
    assert two.is_loaded()
    assert third.vif.tap in run("nft", "list", "ruleset")
    two.tell(tcp(port))
    assert eventually(two.reaches), "what is right again is loaded again"


def test_members_that_cannot_be_loaded(two: Two) -> None:
    port = two.service.port
    for members in (("no address",), ("fe80::%eth0/64",)):
        two.tell(tcp(port, remote_group=CLIENTS), members=(two.client.ip, *members))
        assert not two.reaches()
        assert two.is_loaded()
    two.tell(tcp(port, remote_group=CLIENTS), members=(two.client.ip,))
    assert eventually(two.reaches)


def test_a_port_that_cannot_be_loaded(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    """No value is known that does this: so its rules are spoilt here."""
    two.tell(tcp(two.service.port))
    assert eventually(two.reaches)
    assert eventually(lambda: answers_arp(two.client, two.web))
    spoilt = two.web.vif.port_id
    made = firewall.port_chains

    def spoil(vif: Vif) -> list[nft.Chain]:
        chains = made(vif)
        return [nft.Chain(chains[0].name, SENSELESS), *chains[1:]] if vif.port_id == spoilt else chains

    monkeypatch.setattr(firewall, "port_chains", spoil)
    pair = AddressPair(ip_address="10.80.0.77")
    changed = PortSecurity(
        port_id=spoilt, port_security=True, security_groups=[WEB], allowed_address_pairs=[pair]
    )
    two.lab.host.refresh(NetworkState(ports=[changed]), time.monotonic())
    assert two.is_loaded()
    assert not two.reaches()
    assert not answers_arp(two.client, two.web), "not even ARP"


SENSELESS = [nft.Rule("senseless", [{"match": {"op": "==", "left": nft.meta("mark"), "right": "@nothing"}}])]


def answers_arp(asker: Guest, other: Guest) -> bool:
    command = ["busybox", "arping", "-c", "1", "-w", "1", "-I", "eth0", other.ip]
    return asker.inside(lambda: subprocess.run(command, capture_output=True, check=False)).returncode == 0


def test_a_word_about_a_port_that_is_none_closes_that_port(two: Two) -> None:
    """A conductor is not trusted either: the rest of its answer holds."""
    two.tell(tcp(two.service.port))
    bad = PortSecurity(
        port_id=two.web.vif.port_id,
        port_security=False,
        allowed_address_pairs=[AddressPair(ip_address="10.80.0.7; drop")],
        security_groups=[WEB],
    )
    state = NetworkState(ports=[bad], groups={CLIENTS: []})
    two.lab.host.refresh(state, time.monotonic())
    assert not two.reaches()
    assert two.is_loaded()


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """nft takes no rules, or everything again."""
    apply, now = nft.apply, [False]

    def refuses(commands: list[Any]) -> None:
        if now[0] and any("table" not in what for command in commands for what in command.values()):
            raise nft.Refused("nft: no")
        apply(commands)

    monkeypatch.setattr(nft, "apply", refuses)

    def switch(to: bool) -> None:
        now[0] = to

    return switch


def test_without_rules_nobody_is_joined(lab: Lab, broken: Callable[[bool], None]) -> None:
    guest = lab.guest(5)
    lab.host.stop()
    run("ip", "link", "set", guest.vif.tap, "nomaster")
    run("nft", "flush", "ruleset")
    broken(True)
    lab.start()
    lab.host.repair()
    assert guest.vif.tap not in run("ip", "-br", "link", "show", "master", guest.vif.bridge)
    with pytest.raises(BuildFailed):
        lab.host.plug(make_vif(lab.subnet, 6, lab.network_id))
    broken(False)
    lab.host.repair()
    assert guest.vif.tap in run("ip", "-br", "link", "show", "master", guest.vif.bridge)


def test_nobody_is_joined_of_whom_it_is_not_known_whether_the_rules_are_there(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when nft does not end."""

    def does_not_end(_commands: list[Any]) -> None:
        raise BuildFailed("nft: it did not end")

    lab.guest(5)
    vif = make_vif(lab.subnet, 5, str(uuid4()))
    with monkeypatch.context() as slow:
        slow.setattr(nft, "apply", does_not_end)
        with pytest.raises(BuildFailed):
            lab.host.plug(vif)
        lab.host._mend_now(vif.network_id)
        assert vif.tap not in run("ip", "-br", "link")
    lab.host._mend_now(vif.network_id)
    assert vif.tap in run("ip", "-br", "link", "show", "master", vif.bridge)
    assert vif.tap in run("nft", "list", "ruleset")


def test_without_rules_no_router_is_joined(lab: Lab, broken: Callable[[bool], None]) -> None:
    lab.guest(5)
    router = RouterState(id=str(uuid4()), interfaces=[interface(lab.network_id, lab.subnet)])
    broken(True)
    lab.host.apply_routers(HostRouters(routers=[router]))
    assert "knr" not in run("ip", "-br", "link")
    broken(False)
    lab.host.repair()
    assert "knr" in run("ip", "-br", "link")
    lab.host.apply_routers(HostRouters())


def test_a_host_without_nft_starts_says_so_and_tries_again(
    make_lab: Callable[..., Lab], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = structs.replace(Config().network, tunnel_address="192.0.2.1")
    lab = make_lab(Config(network=network))
    guest = lab.guest(5)
    lab.host.stop()
    run("nft", "flush", "ruleset")
    with monkeypatch.context() as without:
        without.setenv("PATH", "/nowhere")
        lab.start()
        assert lab.host.repair() == []
        told = [one.what for one in findings.read(lab.folder / "network" / findings.FILE) if not one.mended]
        assert any("nft" in what for what in told)
    assert lab.host.repair()
    loaded = run("nft", "list", "ruleset")
    assert guest.vif.tap in loaded
    assert "guests do not speak VXLAN" in loaded
    lab.host.repair()
    assert lab.host.repair() == []
    lab.host.unplug(guest.vif.port_id)
    lab.host.stop()
    with monkeypatch.context() as without:  # nor does it forget what it should remove
        without.setenv("PATH", "/nowhere")
        lab.config = Config()
        lab.start()
    assert "table" in run("nft", "list", "ruleset")
    lab.host.repair()
    assert run("nft", "list", "ruleset") == ""
