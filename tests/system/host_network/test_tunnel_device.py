"""A tunnel's device: what guests make it learn has an end, and costs other tunnels nothing."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator

import pytest

from kilonova.network.host import bridge_limit, forwarding_table, linux, tunnel_device

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
                linux.delete_link(one, name)


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
    assert tunnel_device.peers_of(ip, "knvtest0") == set(PEERS)


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
    messages = forwarding_table.messages

    def counted(one: socket.socket, kind: int) -> Iterator[bytes]:
        for body in messages(one, kind):
            read.append(body)
            yield body

    monkeypatch.setattr(forwarding_table, "messages", counted)
    assert tunnel_device.peers_of(ip, "knvtest0") == set(PEERS)
    assert len(read) == len(PEERS)
    assert tunnel_device.peers_of(ip, "knvtest1") == set(PEERS[:1])
    assert len(read) == len(PEERS) + 301


def test_what_a_bridge_learns_has_an_end(ip: linux.Netlink, monkeypatch: pytest.MonkeyPatch) -> None:
    assert linux.ensure_bridge(ip, "knvtest0", 1500, tracked=False)
    index = linux.index_of(ip, "knvtest0")
    if bridge_limit.most(index) is None:
        pytest.skip("this kernel has no such limit")
    assert bridge_limit.most(index) == bridge_limit.MOST_MACS
    assert linux.ensure_bridge(ip, "knvtest0", 1500, tracked=False) == []
    monkeypatch.setattr(bridge_limit, "MOST_MACS", 20)
    assert linux.ensure_bridge(ip, "knvtest0", 1500, tracked=False) != []
    assert bridge_limit.most(index) == 20
