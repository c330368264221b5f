"""Several hosts on one machine: each a process with a network, a /run/netns and a switch of its own.

They are on one link, the underlay, which a test listens to. What a host does is a function of a test's module
that is called there with its Lab (``FarHost.call``); arguments and answers are pickled.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import shutil
import signal
import socket
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from msgspec import structs
from tests.host_oracle import own_host
from tests.openvswitch import OWN_DEVICE, OpenVSwitch
from tests.plugs import PlugLab
from tests.running import until
from tests.system.host_network.lab import eventually, run, snapshot

from kilonova.domain.network import PlugKind
from kilonova.network.host import LinuxHost

UNDERLAY = "underlay"
PORT = 4789
_CLONE_NEWNS, _CLONE_NEWNET = 0x20000, 0x40000000


class FarLab(PlugLab):
    """The laboratory of a host that takes tunnels."""

    def __init__(self, kind: PlugKind, folder: Path, switch: OpenVSwitch | None, address: str) -> None:
        self.address = address
        self.before: dict[str, object] = {}
        super().__init__(kind, folder, switch)

    def start(self) -> LinuxHost:
        network = structs.replace(self.config.network, tunnel_address=self.address)
        self.config = structs.replace(self.config, network=network)
        return super().start()


class FarHost:
    def __init__(self, number: int, kind: PlugKind) -> None:
        self.address, self.kind = f"10.99.0.{number}", kind
        self._dead = False
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_live, args=(theirs, kind, self.address), daemon=True)
        self._process.start()
        self._answer()
        end = f"far{number}"
        peer = ("peer", "name", "eth0", "netns", str(self._process.pid))
        run("ip", "link", "add", end, "type", "veth", *peer)
        run("ip", "link", "set", end, "master", UNDERLAY, "up")
        self.call(_wire)

    def call(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """``work(lab, *arguments)``, there; its answer."""
        self._ours.send((work, arguments))
        return self._answer()

    def _answer(self) -> Any:
        assert self._ours.poll(120), "the far host does not answer"
        good, what = self._ours.recv()
        if not good:
            raise AssertionError(f"on the host {self.address}: {what}")
        return what

    def die(self) -> None:
        """As a machine that loses its power: its processes end, all at once, and so do their networks."""
        folder, pid = self.call(_folder), self._process.pid
        world = os.readlink(f"/proc/{pid}/ns/mnt")
        for path in Path("/proc").glob("[0-9]*/ns/mnt"):
            with suppress(OSError):
                if os.readlink(path) == world:
                    os.kill(int(path.parts[2]), signal.SIGKILL)
        self._process.join()
        self._dead = True
        shutil.rmtree(folder)

    def close(self) -> None:
        """Nothing may be left there but what was there before."""
        if self._dead:
            self._ours.close()
            return
        try:
            self.call(_end)
        finally:
            self._ours.close()  # even in the midst of work it ends then, with its switch and its folder
            self._process.join(60)
            self._process.kill()
            self._process.join()


@contextmanager
def far_hosts(*kinds: PlugKind) -> Iterator[list[FarHost]]:
    """A host with each of these plugs, at 10.99.0.1 and up."""
    with own_host():
        run("ip", "link", "add", UNDERLAY, "type", "bridge", "mcast_snooping", "0")
        run("ip", "address", "add", "10.99.0.100/24", "dev", UNDERLAY)
        run("ip", "link", "set", UNDERLAY, "up")
        hosts: list[FarHost] = []
        try:
            for number, kind in enumerate(kinds, 1):
                hosts.append(FarHost(number, kind))
            yield hosts
        finally:
            for host in hosts:
                host.close()


# On the host itself
def _live(pipe: Connection, kind: PlugKind, address: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.unshare(_CLONE_NEWNS | _CLONE_NEWNET) == 0
    run("mount", "--make-rprivate", "/")
    run("mount", "-t", "tmpfs", "tmpfs", "/run/netns")
    run("ip", "link", "set", "lo", "up")
    with tempfile.TemporaryDirectory(prefix="far-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        switch = None
        if kind != "bridge":
            switch = OpenVSwitch(folder / "ovs", segments=kind == "ovs").start()
        try:
            _work(pipe, FarLab(kind, folder, switch, address))
        finally:
            if switch:
                switch.kill()


def _work(pipe: Connection, lab: FarLab) -> None:
    pipe.send((True, None))
    while True:
        try:
            work, arguments = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((True, work(lab, *arguments)))
        except BaseException as error:  # noqa: BLE001 - the test is told
            pipe.send((False, f"{type(error).__name__}: {error}"))
        if work is _end:
            return


def _wire(lab: FarLab) -> None:
    run("ip", "address", "add", f"{lab.address}/24", "dev", "eth0")
    run("ip", "link", "set", "eth0", "up")
    lab.before = _seen()


def _folder(lab: FarLab) -> Path:
    return lab.folder


def _end(lab: FarLab) -> None:
    lab.close()
    with suppress(AssertionError):  # the switch removes its own device a moment later
        eventually(lambda: _seen() == lab.before)
    assert _seen() == lab.before


def _seen() -> dict[str, object]:
    seen = snapshot()
    links = seen["links"]
    assert isinstance(links, list)
    kept = [link for link in links if link != OWN_DEVICE]
    return {"links": kept, "namespaces": seen["namespaces"], "rules": seen["rules"]}


# The underlay
_MARK = 0xFFFFFE
"""An identifier of no network."""


class Wire:
    """All frames that tunnels carried over the underlay while it was open."""

    def __init__(self) -> None:
        run("ip", "link", "set", UNDERLAY, "promisc", "on")
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self._socket.bind((UNDERLAY, 0))
        self._socket.settimeout(0.2)
        self._open = True
        self.frames: list[tuple[int, bytes]] = []
        """(VXLAN identifier, frame)."""
        self._thread = threading.Thread(target=self._listen)

    def __enter__(self) -> Wire:
        self._thread.start()
        return self

    @contextmanager
    def unheeded(self, address: str) -> Iterator[None]:
        """What is on the wire meanwhile is forgotten. ``address``: a host's, to which a mark is sent."""
        before = list(self.frames)
        yield
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
            out.sendto(encapsulated(_MARK, b""), (address, PORT))
        until(lambda: any(vni == _MARK for vni, _ in self.frames), 60, "the mark on the wire")
        self.frames[:] = before

    def __exit__(self, *_error: object) -> None:
        self._open = False
        self._thread.join()
        self._socket.close()

    def _listen(self) -> None:
        while self._open:
            with suppress(TimeoutError):
                packet = self._socket.recv(65536)
                if packet[12:14] == b"\x08\x00" and packet[23] == 17 and packet[36:38] == PORT.to_bytes(2):
                    self.frames.append((int.from_bytes(packet[46:49]), packet[50:]))


def encapsulated(vni: int, frame: bytes) -> bytes:
    """What a tunnel's datagram holds (RFC 7348)."""
    return struct.pack("!BxxxI", 0x08, vni << 8) + frame


_IP_MTU_DISCOVER, _DO = 10, 2
_ECHO_REQUEST, _ECHO_REPLY = 8, 0
_ECHO_REQUEST_SIX, _ECHO_REPLY_SIX = 128, 129


def ping(address: str, size: int = 64, seconds: float = 3.0) -> bool:
    """An IP packet of ``size`` octets, that nobody may cut, and its answer."""
    body = struct.pack("!BBHHH", _ECHO_REQUEST, 0, 0, 0x4B4E, 1) + bytes(size - 28)
    words = sum(struct.unpack(f"!{len(body) // 2}H", body[: len(body) // 2 * 2]))
    words = (words & 0xFFFF) + (words >> 16)
    body = body[:2] + struct.pack("!H", ~words & 0xFFFF) + body[4:]
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as one:
        one.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _DO)
        one.settimeout(seconds)
        try:
            one.connect((address, 0))
            one.send(body)
            while one.recv(65536)[20] != _ECHO_REPLY:
                pass
        except OSError:
            return False
        return True


def ping_six(address: str, seconds: float = 5.0) -> bool:
    """The kernel makes the checksum."""
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as one:
        one.settimeout(seconds)
        try:
            one.connect((address, 0))
            one.send(struct.pack("!BBHHH", _ECHO_REQUEST_SIX, 0, 0, 0x4B4E, 1))
            while one.recv(65536)[0] != _ECHO_REPLY_SIX:
                pass
        except OSError:
            return False
        return True
