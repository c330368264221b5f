"""Whatever is killed or taken away: it is found, mended or removed, and nothing is left."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from uuid import uuid4

import msgspec
import pytest
from tests.system.host_network.lab import (
    Lab,
    Namespace,
    dnsmasqs,
    eventually,
    make_vif,
    run,
    snapshot,
    subnet,
)

from kilonova.domain.errors import BuildFailed, Unavailable
from kilonova.network.host import LinuxHost, dhcp, findings, linux, look, names
from kilonova.network.host.plug.bridge import BridgePlug

pytestmark = pytest.mark.system

KILLED = Path(__file__).with_name("killed_at_any_act.py")


def test_plug_and_unplug_again_and_again(lab: Lab) -> None:
    vif = make_vif(lab.subnet, 5, lab.network_id)
    for _ in range(2):
        lab.host.plug(vif)
        lab.host.plug(vif)
        assert lab.host.plugged() == {vif.port_id: vif}
        master = run("ip", "-br", "link", "show", "master", vif.bridge)
        assert vif.tap in master
        assert names.gate(vif.network_id) in master
        lab.host.unplug(vif.port_id)
        lab.host.unplug(vif.port_id)
        assert lab.host.plugged() == {}
        assert lab.host._segments == {}, "what is gone is not remembered"


def test_the_hosts_setting_comes_back(lab: Lab) -> None:
    forwarding = Path("/proc/sys/net/ipv4/ip_forward")
    before = forwarding.read_text()
    try:
        for value in ("0\n", "1\n"):
            forwarding.write_text(value)
            vif = make_vif(lab.subnet, 5, lab.network_id)
            lab.host.plug(vif)
            assert forwarding.read_text() == "1\n"
            lab.restart()
            lab.host.unplug(vif.port_id)
            assert forwarding.read_text() == value
    finally:
        forwarding.write_text(before)


def test_what_is_missing_is_mended(lab: Lab) -> None:
    vif = make_vif(lab.subnet, 5, lab.network_id)
    lab.host.plug(vif)
    lab.host.repair()
    assert lab.host.repair() == []
    assert look.problems(lab.folder / "network", lab.config.network) == []
    damages: list[list[str]] = [
        ["ip", "link", "set", vif.tap, "nomaster"],
        ["ip", "link", "set", vif.tap, "down"],
        ["ip", "link", "set", vif.bridge, "mtu", "1400"],
        ["ip", "link", "del", vif.tap],
        ["ip", "link", "del", names.gate(vif.network_id)],
        ["ip", "link", "del", names.transit(vif.network_id)],
        ["ip", "link", "del", vif.bridge],
        ["ip", "netns", "del", names.namespace(vif.network_id)],
        ["ip", "-n", names.namespace(vif.network_id), "addr", "del", "10.80.0.1/24", "dev", names.GUESTS],
        ["ip", "-n", names.namespace(vif.network_id), "route", "del", "default"],
        [
            *["ip", "-n", names.namespace(vif.network_id), "link", "set", names.GUESTS],
            *["address", "02:00:00:00:00:01"],
        ],
        ["ip", "netns", "exec", names.namespace(vif.network_id), "nft", "flush", "ruleset"],
        ["sysctl", "-qw", "net.ipv4.ip_forward=0"],
        ["nft", "flush", "ruleset"],
        ["ip", "link", "set", vif.bridge, "type", "bridge", "nf_call_iptables", "0"],
    ]
    healthy = snapshot()
    for damage in damages:
        run(*damage)
        said = look.problems(lab.folder / "network", lab.config.network)
        assert said, damage
        mended = lab.host.repair()
        assert mended != [], damage
        kept = findings.read(lab.folder / "network" / findings.FILE)
        assert {one.what for one in kept if one.mended} >= set(mended)
        assert look.problems(lab.folder / "network", lab.config.network) == []
        lab.host.repair()
        assert lab.host.repair() == [], damage
        after = snapshot()
        assert {k: after[k] for k in ("links", "routes", "rules", "forwarding", "servers")} == {
            k: healthy[k] for k in ("links", "routes", "rules", "forwarding", "servers")
        }, damage


def test_guests_hear_that_their_gateway_has_its_mac_again(lab: Lab) -> None:
    """Those that have learnt the wrong one; they need not find out."""
    guest = lab.guest(5)
    guest.set_address()
    gateway, wrong = str(guest.vif.addresses[0].subnet.gateway_ip), "02:00:00:00:00:01"
    guest.run("ip", "neigh", "replace", gateway, "lladdr", wrong, "nud", "stale", "dev", "eth0")
    space = names.namespace(guest.vif.network_id)
    run("ip", "-n", space, "link", "set", names.GUESTS, "address", wrong)
    assert lab.host.repair() != []
    mac = names.guests_mac(guest.vif.network_id)
    eventually(lambda: mac in guest.run("ip", "neigh", "show", gateway))


def test_what_changes_is_told(lab: Lab) -> None:
    """Of each thing that the kernel tells of; again after it was looked at."""
    vif = make_vif(lab.subnet, 5, lab.network_id)
    lab.host.plug(vif)
    space, told = names.namespace(vif.network_id), queue.Queue[bool]()
    lab.host.on_change(lambda: told.put(True))
    damages: list[list[str]] = [
        ["ip", "link", "set", vif.tap, "nomaster"],
        ["ip", "link", "del", vif.bridge],
        ["nft", "flush", "ruleset"],
        ["sysctl", "-qw", "net.ipv4.ip_forward=0"],
        ["ip", "-n", space, "addr", "del", "10.80.0.1/24", "dev", names.GUESTS],
        ["ip", "-n", space, "route", "del", "default"],
        ["ip", "netns", "exec", space, "nft", "flush", "ruleset"],
    ]
    for damage in damages:
        while lab.host.repair():
            pass
        lab.host.repair()  # nor is anything of the last one's own mending left to be told
        while not told.empty():
            told.get()
        run(*damage)
        assert told.get(timeout=10), damage
        assert lab.host.repair() != [], damage
    lab.host.on_change(lambda: None)


def test_what_is_wrong_while_nobody_mends(lab: Lab) -> None:
    """Each thing by its name; the look itself changes nothing."""
    guest = lab.guest(5)
    vif, folder = guest.vif, lab.folder / "network"
    lab.host.repair()
    lab.host.stop()
    before = snapshot()
    network, port = f"network {vif.network_id}", f"port {vif.port_id}"
    silent = f"{network}: its metadata service does not listen (does Kilonova run?)"
    assert look.problems(folder, lab.config.network) == [silent]
    assert snapshot() == before
    (server,) = (folder / "networks" / vif.network_id).glob("dnsmasq.pid")
    os.kill(int(server.read_text()), signal.SIGKILL)
    eventually(lambda: not dnsmasqs())
    run("ip", "link", "set", vif.tap, "nomaster")
    run("nft", "flush", "ruleset")
    said = look.problems(folder, lab.config.network)
    assert f"{port}: device {vif.tap} is not on {vif.bridge}" in said
    assert f"{network}: its DHCP server does not run" in said
    assert [line for line in said if line.startswith("firewall rules: firewall")]
    run("ip", "netns", "del", names.namespace(vif.network_id))
    said = look.problems(folder, lab.config.network)
    assert f"{network}: its namespace {names.namespace(vif.network_id)} is missing" in said
    lab.start()
    lab.host.repair()
    assert look.problems(folder, lab.config.network) == []


def test_what_cannot_be_mended_is_kept_too(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    vif = make_vif(lab.subnet, 5, lab.network_id)
    lab.host.plug(vif)
    lab.host.repair()
    run("ip", "link", "set", vif.tap, "nomaster")
    with monkeypatch.context() as broken:
        broken.setattr(linux, "ensure_set", _refuses)
        for _ in range(3):
            lab.host.repair()
    kept = findings.read(lab.folder / "network" / findings.FILE)
    assert [(one.what, one.times) for one in kept if not one.mended] == [("no such luck", 3)]
    assert lab.host.repair() != []


def test_what_cannot_be_mended_keeps_nothing_else_from_it(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A DHCP server that does not start cuts no guest off; nor does a port that cannot be joined another."""
    one, two = (make_vif(lab.subnet, number, lab.network_id) for number in (5, 6))
    for vif in (one, two):
        lab.host.plug(vif)
    lab.host.repair()
    for vif in (one, two):
        run("ip", "link", "set", vif.tap, "nomaster")
    run("ip", "netns", "exec", names.namespace(one.network_id), "ip", "link", "set", "uplink", "down")
    join = BridgePlug.ensure_port
    with monkeypatch.context() as broken:
        broken.setattr(dhcp, "ensure", _refuses)
        broken.setattr(
            BridgePlug,
            "ensure_port",
            lambda self, ip, vif: _refuses() if vif.port_id == one.port_id else join(self, ip, vif),
        )
        lab.host.repair()
    said = look.problems(lab.folder / "network", lab.config.network)
    assert said == [f"port {one.port_id}: device {one.tap} is not on {one.bridge}"]
    assert lab.host.repair() == [f"network {one.network_id}: device {one.tap} set right: master"]


def _refuses(*_: object, **__: object) -> list[str]:
    raise BuildFailed("no such luck")


def test_repair_costs_nothing_when_all_is_well(lab: Lab) -> None:
    for number in range(5, 8):
        lab.host.plug(make_vif(lab.subnet, number, str(uuid4())))
    lab.host.repair()
    began = time.process_time()
    for _ in range(10):
        assert lab.host.repair() == []
    assert (time.process_time() - began) / 10 < 0.005


def test_many_at_once(lab: Lab) -> None:
    nets = [str(uuid4()) for _ in range(3)]
    vifs = [make_vif(lab.subnet, 5 + n, nets[n % 3]) for n in range(12)]
    errors: list[Exception] = []

    def life(which: int) -> None:
        try:
            for vif in vifs[which::4]:
                lab.host.plug(vif)
            lab.host.repair()
            for vif in vifs[which::4]:
                lab.host.unplug(vif.port_id)
        except Exception as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=life, args=(which,)) for which in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert lab.host.plugged() == {}


def test_before_start_it_says_so(lab: Lab, open_folder: Path) -> None:
    with pytest.raises(Unavailable):
        LinuxHost(lab.config, open_folder / "other").plug(make_vif(lab.subnet, 5, lab.network_id))


def test_what_cannot_be_made_is_named_and_undone(lab: Lab) -> None:
    vif = make_vif(lab.subnet, 5, lab.network_id, mtu=70_000)
    with pytest.raises(BuildFailed, match=vif.bridge):
        lab.host.plug(vif)
    assert list(lab.host.plugged()) == [vif.port_id]
    lab.host.unplug(vif.port_id)


def test_a_network_without_ports_is_removed_at_start(lab: Lab) -> None:
    """The crash came after the last port's record went."""
    vif = make_vif(lab.subnet, 5, lab.network_id)
    lab.host.plug(vif)
    run("ip", "link", "del", vif.tap)
    lab.host.stop()
    (lab.folder / "network" / "ports" / f"{vif.port_id}.json").unlink()
    lab.start()
    left = snapshot()
    assert left["links"] == ["lo"]
    assert (left["namespaces"], left["servers"], left["rules"]) == ([], [], "")


@pytest.mark.parametrize("verb", ["plug", "unplug", "route", "unroute"])
def test_killed_at_any_act(verb: str, open_folder: Path, own_host: None) -> None:
    """Two hosts side by side take every other place each: most of the time is the kernel's."""
    other = Namespace(f"test-host-{uuid4().hex[:8]}")
    children = [_kills(verb, open_folder, 1), other.inside(lambda: _kills(verb, open_folder, 2))]
    try:
        said = [child.communicate(timeout=300) for child in children]
    finally:
        for child in children:
            child.kill()
        other.close()
    for child, (_, errors) in zip(children, said, strict=True):
        assert child.returncode == 0, errors
    assert all(int(output.split()[-1]) > 10 for output, _ in said), "the places were found"


def _kills(verb: str, folder: Path, first: int) -> subprocess.Popen[str]:
    vif = msgspec.json.encode(make_vif(subnet(), 5, str(uuid4()))).decode()
    arguments = [str(folder / f"killed-{first}"), vif, verb, str(first), "2"]
    return subprocess.Popen(
        [sys.executable, str(KILLED), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
