"""A small laboratory for the host network: guests that are namespaces, an "internet", and a leak check.

Each test runs in a network namespace of its own, which is its host: the machine's network is not touched, and
tests may run side by side. A guest's NIC is a veth whose host end has the name of the port's tap: plug()
takes a device that is there. What happens between is the real kernel, the real dnsmasq, the real nftables.
"""

from __future__ import annotations

import http.client
import json
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from ipaddress import IPv4Address
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

from kilonova.config import Config
from kilonova.domain.network import Vif, VifAddress, VifSubnet
from kilonova.domain.servers import GuestMetadata
from kilonova.network.host import LinuxHost, linux, names

T = TypeVar("T")

COMES = 30.0
"""Seconds that are waited for what must come. (What must not come is waited for shorter.)"""

INTERNET_HOST_SIDE, INTERNET = "203.0.113.1", "203.0.113.2"

made_networks: list[str] = []
"""Ids of the networks that tests made ports on."""

_DHCP_SCRIPT = """#!/bin/busybox sh
case $1 in
deconfig) ip link set $interface up;;
bound)
  env > "$DHCP_RESULT"
  ip addr add $ip/$mask dev $interface
  ip link set $interface mtu $mtu
  set -- $staticroutes
  while [ $# -ge 2 ]; do ip route add $1 via $2 dev $interface; shift 2; done;;
esac
"""


def subnet(cidr: str = "10.80.0.0/24", *, gateway: bool = True, **more: object) -> VifSubnet:
    """Gateway .1, DHCP server .2."""
    base = IPv4Address(cidr.split("/", maxsplit=1)[0])
    return VifSubnet(
        id=str(uuid4()),
        cidr=cidr,
        gateway_ip=str(base + 1) if gateway else None,
        dhcp_address=str(base + 2),
        **more,  # type: ignore[arg-type]
    )


def make_vif(of: VifSubnet, number: int, network_id: str, **more: object) -> Vif:
    """The port with the subnet's address ``number``."""
    made_networks.append(network_id)
    ip = str(IPv4Address(of.cidr.split("/")[0]) + number)
    return Vif(
        port_id=str(uuid4()),
        network_id=network_id,
        mac=f"fa:16:3e:00:00:{number:02x}",
        addresses=[VifAddress(ip=ip, subnet=of)],
        hostname=f"guest-{number}",
        **more,  # type: ignore[arg-type]
    )


def run(*command: str, **options: object) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **options)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return str(done.stdout)


def eventually(condition: Callable[[], T], seconds: float = 60.0) -> T:
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, "did not come about"
        time.sleep(0.02)
    return result


class Namespace:
    def __init__(self, name: str) -> None:
        self.name = name
        run("ip", "netns", "add", name)

    def inside(self, work: Callable[[], T]) -> T:
        return linux.inside(self.name, work)

    def run(self, *command: str, **options: object) -> str:
        return self.inside(lambda: run(*command, **options))

    def close(self) -> None:
        subprocess.run(["ip", "netns", "del", self.name], check=False, capture_output=True)


class Guest(Namespace):
    def __init__(self, vif: Vif) -> None:
        super().__init__(f"test-{vif.port_id[:8]}")
        self.vif = vif
        run("ip", "link", "add", vif.tap, "type", "veth", "peer", "eth0", "netns", self.name)
        self.run("ip", "link", "set", "lo", "up")
        self.run("ip", "link", "set", "eth0", "address", vif.mac, "up")

    @property
    def ip(self) -> str:
        return self.vif.addresses[0].ip

    def dhcp(self, folder: Path, tries: int = 20, ask: Sequence[str] = ()) -> dict[str, str]:
        """Take a lease, with busybox's own client, and set the NIC up by it; what the client was told.

        ``ask``: for these options too, in busybox's words.
        """
        script, result = folder / "dhcp-script", folder / f"{self.name}.lease"
        script.write_text(_DHCP_SCRIPT)
        script.chmod(0o755)
        wanted = [word for name in ("staticroutes", "mtu", "249", *ask) for word in ("-O", name)]
        self.run(
            *[
                "busybox",
                "udhcpc",
                "-i",
                "eth0",
                "-f",
                "-n",
                "-q",
                "-t",
                str(tries),
                "-T",
                "1",
                "-s",
                str(script),
            ],
            *wanted,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DHCP_RESULT": str(result)},
        )
        return dict(line.split("=", 1) for line in result.read_text().splitlines() if "=" in line)

    def set_address(self, address: str | None = None, gateway: str | None = None) -> None:
        length = self.vif.addresses[0].subnet.cidr.split("/")[1]
        self.run("ip", "addr", "add", f"{address or self.ip}/{length}", "dev", "eth0")
        gateway = gateway or self.vif.addresses[0].subnet.gateway_ip
        if gateway:
            self.run("ip", "route", "replace", "default", "via", gateway)

    def reaches(self, address: str, port: int, seconds: float = 1) -> str | None:
        """What a TCP service answers, or None if there is no way to it."""

        def connect() -> str | None:
            try:
                with socket.create_connection((address, port), timeout=seconds) as connection:
                    return connection.recv(100).decode()
            except OSError:
                return None

        return self.inside(connect)

    def get(
        self,
        path: str,
        headers: dict[str, str] | None = None,
        method: str = "GET",
        body: bytes | None = None,
    ) -> tuple[int, bytes]:
        """A request to the metadata service."""

        def ask() -> tuple[int, bytes]:
            connection = http.client.HTTPConnection("169.254.169.254", timeout=COMES)
            connection.request(method, path, body, headers=headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read()

        return self.inside(ask)

    def raw(self) -> socket.socket:
        """A socket for whole Ethernet frames."""

        def make() -> socket.socket:
            one = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            one.bind(("eth0", 0))
            one.settimeout(COMES)
            return one

        return self.inside(make)


class Lab:
    """The host under test, and what was made around it."""

    def __init__(self, folder: Path, config: Config | None = None) -> None:
        self.folder = folder
        self.config = config or Config()
        self.known: dict[tuple[str, str], GuestMetadata] = {}
        self.network_id = str(uuid4())
        self.subnet = subnet()
        self.guests: list[Guest] = []
        self.host = self.start()

    def start(self) -> LinuxHost:
        self.host = LinuxHost(self.config, self.folder / "network")
        self.host.start(lambda network, address: self.known.get((network, address)))
        return self.host

    def restart(self) -> None:
        self.host.stop()
        self.start()

    def guest(self, number: int, **more: object) -> Guest:
        """A guest on the lab's network, plugged."""
        more = {"of": self.subnet, "network_id": self.network_id} | more
        return self.plug(make_vif(number=number, **more))  # type: ignore[arg-type]

    def plug(self, vif: Vif) -> Guest:
        guest = Guest(vif)
        self.guests.append(guest)
        self.host.plug(vif)
        # A real guest takes longer to boot than the kernel to notice (up to 1 s) that its NIC has a carrier.
        eventually(lambda: all(port["state"] == "forwarding" for port in bridge_ports(vif)))
        return guest

    def close(self) -> None:
        for port_id in self.host.plugged():
            self.host.unplug(port_id)
        self.host.stop()
        for guest in self.guests:
            guest.close()


class Service:
    """A TCP service that tells each caller the address it was called from."""

    def __init__(self, where: Callable[[Callable[[], socket.socket]], socket.socket], address: str) -> None:
        self._socket = where(lambda: socket.create_server((address, 0)))
        self.port = int(self._socket.getsockname()[1])
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, (source, _) = self._socket.accept()
            except OSError:
                return
            with connection:
                connection.sendall(source.encode())

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()


# Frames
BROADCAST = "ff:ff:ff:ff:ff:ff"
MARK = b"\x88\xb5"  # IEEE's type for experiments


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def ipv4(
    ether: tuple[str, str], source: str, target: str, *, ports: tuple[int, int] = (9, 9), text: bytes = b""
) -> bytes:
    """A UDP datagram in a frame: (source MAC, target MAC), addresses and ports."""
    udp = struct.pack("!HHHH", *ports, 8 + len(text), 0) + text
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0)
    addresses = IPv4Address(source).packed + IPv4Address(target).packed
    words = struct.unpack("!10H", head + addresses)
    total = sum(words)
    total = (total & 0xFFFF) + (total >> 16)
    head = head[:10] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF)
    return mac(ether[1]) + mac(ether[0]) + b"\x08\x00" + head + addresses + udp


def ill_summed(frame: bytes) -> bytes:
    """The datagram of ipv4(), with a checksum that is not its own: of no connection, for whoever tracks."""
    return frame[:40] + b"\x00\x01" + frame[42:]


def leaves_by(guest: Guest, gateway_mac: str, outside: Service) -> set[str]:
    """The addresses by which the outside hears of a datagram of the guest's that no connection is for, and of
    one after it."""

    def listen() -> socket.socket:
        ear = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
        ear.settimeout(COMES)
        return ear

    frames = [ipv4((guest.vif.mac, gateway_mac), guest.ip, INTERNET, text=text) for text in (b"ill", b"last")]
    with outside.space.inside(listen) as ear, guest.raw() as out:  # type: ignore[attr-defined]
        for frame in (ill_summed(frames[0]), frames[1]):
            out.send(frame)
        found = set()
        while True:
            heard = ear.recv(2048)
            found.add(str(IPv4Address(heard[26:30])))
            if heard.endswith(b"last"):
                return found


def arp(ether_source: str, sender: tuple[str, str], target: str, operation: int = 1) -> bytes:
    """An ARP frame to all: the sender is a (MAC, IP) pair."""
    body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation)
    body += mac(sender[0]) + IPv4Address(sender[1]).packed + bytes(6) + IPv4Address(target).packed
    return mac(BROADCAST) + mac(ether_source) + b"\x08\x06" + body


def what_arrives(
    sender: Guest,
    receiver: Guest,
    frames: list[bytes],
    last: bytes,
    *,
    quiet: float = 0,
    must: Sequence[bytes] = (),
) -> list[bytes]:
    """Those of ``frames`` that reach the receiver, by the time that ``last``, sent after them, does.

    ``quiet``: and until nothing came for so many seconds, where frames may overtake each other. ``must``: of
    these each is waited for.
    """
    with sender.raw() as out, receiver.raw() as into:
        for frame in [*frames, last]:
            out.send(frame)
        arrived = []
        while (seen := into.recv(2048)) != last:
            arrived.append(seen)
        with suppress(TimeoutError):
            while not {_without_tag(frame) for frame in must} <= {*arrived, last}:
                arrived.append(into.recv(2048))
        into.settimeout(quiet)
        with suppress(BlockingIOError, TimeoutError):
            while quiet:
                arrived.append(into.recv(2048))
    return [frame for frame in frames if _without_tag(frame) in arrived]


def _without_tag(frame: bytes) -> bytes:
    """As the kernel hands a frame to a packet socket: a VLAN tag is not in it."""
    return frame[:12] + frame[16:] if frame[12:14] == b"\x81\x00" else frame


def bridge_ports(vif: Vif) -> list[dict[str, str]]:
    ports = json.loads(run("bridge", "-j", "link"))
    return [port for port in ports if port["ifname"] in (vif.tap, names.gate(vif.network_id))]


# What is on the host
def snapshot() -> dict[str, object]:
    """Everything that a network could leave behind."""
    links = json.loads(run("ip", "-j", "link"))
    spaces = {name.split()[0] for name in run("ip", "netns").splitlines()}
    return {
        "links": sorted(link["ifname"] for link in links),
        "addresses": run("ip", "-br", "addr"),
        "routes": run("ip", "route"),
        "namespaces": sorted(spaces & {names.namespace(network_id) for network_id in made_networks}),
        "rules": run("nft", "list", "ruleset"),
        "forwarding": Path("/proc/sys/net/ipv4/ip_forward").read_text(),
        "servers": dnsmasqs(),
    }


def dnsmasqs() -> list[str]:
    """The command lines of every dnsmasq of ours that lives."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if words[0] == "dnsmasq" and any(network_id in " ".join(words) for network_id in made_networks):
            found.append(" ".join(words))
    return sorted(found)
