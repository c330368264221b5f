"""A tunnel's device: what guests make it learn has an end, and costs other tunnels nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from kilonova.network.host import bridge_settings, forwarding_table, linux, rtnl, tunnel_device

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="changes the host's network"),
]

PEERS = ["192.0.2.1", "192.0.2.2"]
LOCAL = "127.0.0.1"


@pytest.fixture
def ip() -> Iterator[linux.Netlink]:
    with linux.netlink() as one:
        try:
            yield one
        finally:
            for name in ("knvtest0", "knvtest1"):
                linux.delete_link(name)


def ensure(ip: linux.Netlink, number: int, peers: list[str]) -> list[str]:
    name, vni = f"knvtest{number}", 16_000_000 + number
    return tunnel_device.ensure(ip, name, vni=vni, local=LOCAL, port=47899, peers=peers, mtu=1450)


def fill(name: str, entries: int) -> str:
    """Its forwarding table, as if it had learned; what the kernel says of it."""
    lines = (
        f"fdb append 02:00:00:00:{n >> 8:02x}:{n & 255:02x} dev {name} dst 192.0.2.9" for n in range(entries)
    )
    command = ["bridge", "-batch", "-"]
    return subprocess.run(
        command, input="\n".join(lines), capture_output=True, text=True, timeout=60, check=False
    ).stderr


def test_what_it_learns_has_an_end(ip: linux.Netlink, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunnel_device, "_MOST_MACS", 20)
    ensure(ip, 0, PEERS)
    assert "No space left" in fill("knvtest0", 21)
    assert ensure(ip, 0, PEERS) == []
    assert tunnel_device.peers_of("knvtest0") == set(PEERS)


def test_a_device_of_before_that_learns_without_end_is_replaced(ip: linux.Netlink) -> None:
    options = {"vxlan_id": 16_000_000, "vxlan_local": LOCAL, "vxlan_port": 47899, "vxlan_learning": 1}
    ip.link("add", ifname="knvtest0", kind="vxlan", **options)
    assert "device knvtest0 was another" in ensure(ip, 0, PEERS)
    assert ensure(ip, 0, PEERS) == []


def test_only_its_own_table_is_read(ip: linux.Netlink, monkeypatch: pytest.MonkeyPatch) -> None:
    ensure(ip, 0, PEERS)
    ensure(ip, 1, PEERS[:1])
    assert fill("knvtest1", 300) == ""
    read = []
    ask = rtnl.ask

    def counted(*asked: Any, **more: Any) -> Iterator[bytes]:
        for body in ask(*asked, **more):
            read.append(body)
            yield body

    def peers_of(name: str) -> set[str]:
        index = linux.index_of(name)
        with monkeypatch.context() as counting:
            counting.setattr(rtnl, "ask", counted)
            return forwarding_table.destinations(index, bytes(6))

    assert peers_of("knvtest0") == set(PEERS)
    assert len(read) == len(PEERS)
    assert peers_of("knvtest1") == set(PEERS[:1])
    assert len(read) == len(PEERS) + 301


def test_what_a_bridge_learns_has_an_end(ip: linux.Netlink, monkeypatch: pytest.MonkeyPatch) -> None:
    def most() -> int | None:
        link = linux.find("knvtest0")
        assert link is not None
        said = link.data.get(49)
        return said and int.from_bytes(said, sys.byteorder)

    assert linux.ensure_bridge(ip, "knvtest0", 1500, tracked=False)
    if most() is None:
        pytest.skip("this kernel has no such limit")
    assert most() == bridge_settings.MOST_MACS
    assert linux.ensure_bridge(ip, "knvtest0", 1500, tracked=False) == []
    monkeypatch.setattr(bridge_settings, "MOST_MACS", 20)
    assert linux.ensure_bridge(ip, "knvtest0", 1500, tracked=False) != []
    assert most() == 20
