"""What goes wrong on real hosts: full disks, hypervisors and servers that die, what others remove, bad input.

After each fault the host and the records agree, nothing is left, and what comes next works.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.host_oracle import HostOracle, real_machine
from tests.namespaces import strays_of
from tests.running import Up, until
from tests.system.cloud import SERVERS, Cloud, Guest, real_cloud
from tests.system.test_libvirt_daemon import LAUNCHER

from kilonova.cli import network_checks

pytestmark = pytest.mark.system

TINY = bytes(1 << 16)
REPAIRED = 60.0
"""Seconds that tests wait for the host to be in order; `python -m bench mending` measures the time."""
ROOMY = """
[quota]
instances = -1
cores = -1
[compute]
cpu_allocation_ratio = 100.0
"""


class Host:
    """A Kilonova with the libvirt driver and guests that have no system."""

    def __init__(self, up: Up, oracle: HostOracle) -> None:
        self.up = up
        self.oracle = oracle

    def prepare(self) -> None:
        """A flavor whose disk is as large as its image, and a network."""
        flavor = {"id": "small", "name": "small", "vcpus": 1, "ram": 128, "disk": 0}
        assert self.up.ask("POST", "/compute/v2.1/flavors", {"flavor": flavor})[0] == 200
        self.network = self.up.network()

    def create(self, image: str, **more: Any) -> str:
        status, answer = self.up.post_server(image, self.network, flavorRef="small", **more)
        assert status == 202, answer
        return str(answer["server"]["id"])

    def build(self, image: str, **more: Any) -> Any:
        """A server that was created, when nothing is done to it any more."""
        return self.up.settled(self.create(image, **more))

    def fails(self, image: str, step: str, why: str, **more: Any) -> None:
        """A build ends in ERROR; its fault names the step and the cause. Nothing of it is on the host."""
        server = self.build(image, **more)
        assert server["status"] == "ERROR"
        assert f"{step} failed: " in server["fault"]["message"]
        assert why in server["fault"]["message"]
        until(lambda: self.oracle.unexplained() == [], REPAIRED, "the host to be in order")
        self.delete(server["id"])

    def works(self, image: str) -> None:
        """A build ends ACTIVE, and nothing is left after it."""
        server = self.build(image)
        assert server["status"] == "ACTIVE", server
        assert self.oracle.unexplained() == []
        self.delete(server["id"])
        assert self.oracle.left() == []

    def delete(self, *server_ids: str) -> None:
        for server_id in server_ids:
            assert self.up.ask("DELETE", f"{SERVERS}/{server_id}")[0] == 204
        for server_id in server_ids:
            until(lambda one=server_id: self.up.server(one) is None, 60, f"{server_id} to go")


@pytest.fixture(scope="module")
def machine() -> Iterator[Host]:
    with real_machine() as (up, oracle):
        up.start(ROOMY)
        host = Host(up, oracle)
        host.prepare()
        yield host


# --- disks
@contextmanager
def small_disk(path: Path, mib: int) -> Iterator[None]:
    path.mkdir(parents=True)
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=0711", "kilonova-test", path], check=True
    )
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", path], check=True)


@contextmanager
def only(kib: int, folder: Path) -> Iterator[None]:
    """The disk has this much room and no more."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        while (free := os.statvfs(folder).f_bavail * 4) > kib:
            file.write(bytes(min(free - kib, 1024) << 10))
    try:
        yield
    finally:
        filler.unlink()


def test_a_full_disk() -> None:
    with real_machine() as (up, oracle), small_disk(up.state / "hosts", 16):
        up.start(ROOMY)
        host = Host(up, oracle)
        host.prepare()
        large, tiny = up.image(bytes(20 << 20)), up.image(TINY)
        no_room = "No space left on device"
        host.fails(large, "fetch_image", "no space left")
        host.works(tiny)
        for room, step in ((4, "create_disks"), (200, "create_config_drive")):
            with only(room, up.state / "hosts"):
                host.fails(tiny, step, no_room, config_drive=True)
        # Somewhere after the disks, whichever step it is. (libvirt itself takes 40 s to give up at 420.)
        for room in (240, 300, 360):
            with only(room, up.state / "hosts"):
                server = host.build(tiny, config_drive=True)
                assert server["status"] == "ACTIVE" or no_room in server["fault"]["message"]
                assert oracle.unexplained() == []
                host.delete(server["id"])
                assert oracle.left() == []
        host.works(tiny)
        up.kill()


# --- libvirt
class Libvirtd:
    """A daemon of the test's own, in the network of this test."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o711)
        self.uri = f"qemu+unix:///system?socket={folder}/libvirt-sock"
        self._command = ["unshare", "--mount", "--propagation", "private", str(LAUNCHER), str(folder)]
        self._log = (folder / "log").open("ab")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=self._log, stderr=self._log)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def test_libvirt_goes_away_and_comes_back() -> None:
    with real_machine() as (up, oracle):
        daemon = Libvirtd(up.state.parent / "libvirt")
        host = Host(up, oracle)
        try:
            daemon.start()
            up.start(f'{ROOMY}[libvirt]\nuri = "{daemon.uri}"\nvirt_type = "qemu"\n')
            host.prepare()
            image = up.image(TINY)
            host.works(image)
            stays, goes = host.build(image)["id"], host.build(image)["id"]

            daemon.kill()
            failed = host.build(image)
            assert failed["status"] == "ERROR"
            assert "create_domain failed: libvirt" in failed["fault"]["message"]
            assert "is away" in failed["fault"]["message"]
            assert up.ask("DELETE", f"{SERVERS}/{goes}")[0] == 204
            assert up.server(stays)["status"] == "ACTIVE"
            assert up.ask("POST", f"{SERVERS}/{stays}/action", {"os-getConsoleOutput": {}})[0] == 200

            daemon.start()
            until(lambda: up.server(goes) is None, 60, "the delete to go on")
            until(lambda: oracle.unexplained() == [], 60, "what the build left to be removed")
            assert host.build(image)["status"] == "ACTIVE"
            assert up.server(stays)["status"] == "ACTIVE"
            host.delete(stays, failed["id"], *[one for one in oracle.guests() if one != stays])
            assert oracle.left() == []
        finally:
            up.kill()
            daemon.kill()


# --- images
def test_many_at_once_of_an_uncached_image(machine: Host) -> None:
    image = machine.up.image(os.urandom(8 << 20))
    with ThreadPoolExecutor(20) as pool:
        servers = list(pool.map(lambda _: machine.create(image), range(20)))
    statuses = {machine.up.settled(server_id, 240)["status"] for server_id in servers}
    assert statuses == {"ACTIVE"}
    assert machine.up.log().count(f"image_fetched image={image}") == 1
    assert machine.oracle.unexplained() == []
    machine.delete(*servers)
    assert machine.oracle.left() == []


def test_killed_in_the_midst_of_a_fetch(machine: Host) -> None:
    up = machine.up
    for _ in range(10):
        data = os.urandom(1 << 20) * 128
        name = hashlib.sha512(data).hexdigest()
        server_id = machine.create(up.image(data))
        until(lambda n=name: list(up.state.glob(f"hosts/*/_base/{n}*")), 60, "the fetch to begin")  # type: ignore[misc]
        up.kill()
        if part := next(up.state.glob(f"hosts/*/_base/{name}.part"), None):
            break
        # It was at its end already: once more.
        up.start(ROOMY)
        up.settled(server_id)
        machine.delete(server_id)
    assert part is not None
    assert part.stat().st_size <= len(data)
    assert not part.with_name(name).exists()

    up.start(ROOMY)
    assert up.settled(server_id)["status"] == "ACTIVE"
    (base,) = up.state.glob(f"hosts/*/_base/{name}")
    with base.open("rb") as file:
        assert hashlib.file_digest(file, "sha512").hexdigest() == name
    assert not part.exists()
    assert machine.oracle.unexplained() == []
    machine.delete(server_id)
    assert machine.oracle.left() == []


QCOW2 = {
    "backing file": b"QFI\xfb\0\0\0\x02" + (512).to_bytes(8) + (11).to_bytes(4) + bytes(492) + b"/etc/passwd",
    "other format": b"KDMV" + bytes(1020),
    "nothing": b"not what it says" * 64,
}


@pytest.mark.parametrize("lie", QCOW2)
def test_an_image_that_lies_about_its_format(machine: Host, lie: str) -> None:
    up = machine.up
    body = {"name": "liar", "disk_format": "qcow2", "container_format": "bare"}
    image = up.ask("POST", "/image/v2/images", body)[1]["id"]
    status, _ = up.ask("PUT", f"/image/v2/images/{image}/file", QCOW2[lie])
    assert 400 <= status < 500
    _, shown = up.ask("GET", f"/image/v2/images/{image}")
    assert (shown["status"], shown["size"]) == ("queued", None)
    status, answer = up.post_server(image, machine.network)
    assert status == 400, answer
    assert list(up.state.glob(f"images/{image}*")) == []


def test_an_upload_that_breaks_off(machine: Host) -> None:
    up = machine.up
    body = {"name": "half", "disk_format": "raw", "container_format": "bare"}
    image = up.ask("POST", "/image/v2/images", body)[1]["id"]
    path = f"/image/v2/images/{image}/file"
    connection = http.client.HTTPConnection(up.url.removeprefix("http://"), timeout=30)
    headers = {"X-Auth-Token": up.token(), "Content-Type": "application/octet-stream"}
    connection.putrequest("PUT", path)
    for name, value in {**headers, "Content-Length": str(1 << 20)}.items():
        connection.putheader(name, value)
    connection.endheaders(bytes(1000))

    def shown() -> Any:
        return up.ask("GET", f"/image/v2/images/{image}")[1]["status"]

    until(lambda: shown() == "saving", 60, "the upload to begin")
    connection.close()
    until(lambda: shown() == "queued", 60, "the image to be queued again")
    assert list(up.state.glob(f"images/{image}*")) == []
    assert up.ask("PUT", path, TINY)[0] == 204
    machine.works(image)


# --- tokens
def test_tokens_that_are_no_good(machine: Host) -> None:
    up = machine.up
    image = up.image(TINY)
    server_id = machine.build(image)["id"]
    mine = f"{SERVERS}/{server_id}"
    stranger = another_project(up)

    bad = {
        "nonsense": "x" * 100,
        "with a character more": up.token() + "A",
        "revoked": revoked(up),
    }
    for what, token in bad.items():
        for path in (mine, "/image/v2/images", "/networking/v2.0/networks"):
            assert up.ask("GET", path, headers={"X-Auth-Token": token})[0] == 401, what
        assert up.ask("DELETE", mine, headers={"X-Auth-Token": token})[0] == 401, what
    theirs = {"X-Auth-Token": stranger}
    assert up.ask("GET", mine, headers=theirs)[0] == 404
    assert up.ask("DELETE", mine, headers=theirs)[0] == 404
    assert up.ask("POST", f"{mine}/action", {"os-stop": None}, headers=theirs)[0] == 404
    assert up.ask("GET", SERVERS, headers=theirs) == (200, {"servers": []})
    body = {"server": {"name": "s", "imageRef": image, "flavorRef": "42"}}
    body["server"]["networks"] = [{"uuid": machine.network}]  # type: ignore[assignment]
    assert up.ask("POST", SERVERS, body, headers=theirs)[0] in (400, 404)

    assert machine.oracle.unexplained() == []
    machine.delete(server_id)
    assert machine.oracle.left() == []


def test_a_token_that_expires(tmp_path: Path) -> None:
    up = Up(tmp_path / "state").start("[token]\nexpiration = 3\n")
    try:
        token = {"X-Auth-Token": up.token()}
        assert up.ask("GET", SERVERS, headers=token)[0] == 200
        until(lambda: up.ask("GET", SERVERS, headers=token)[0] == 401, 60, "the token to expire")
    finally:
        up.stop()


def revoked(up: Up) -> str:
    own = {"methods": ["token"], "token": {"id": up.token()}}
    token = login(
        up, {"identity": own, "scope": {"project": {"name": "admin", "domain": {"name": "Default"}}}}
    )
    headers = {"X-Auth-Token": token, "X-Subject-Token": token}
    assert up.ask("DELETE", "/identity/v3/auth/tokens", headers=headers)[0] == 204
    return token


def another_project(up: Up) -> str:
    """A token of a member of another project."""
    project = up.ask("POST", "/identity/v3/projects", {"project": {"name": "other"}})[1]["project"]["id"]
    user = {"name": "other", "password": "secret secret"}
    user_id = up.ask("POST", "/identity/v3/users", {"user": user})[1]["user"]["id"]
    (role,) = up.ask("GET", "/identity/v3/roles?name=member")[1]["roles"]
    assert up.ask("PUT", f"/identity/v3/projects/{project}/users/{user_id}/roles/{role['id']}")[0] == 204
    by_password = {
        "methods": ["password"],
        "password": {"user": {"id": user_id, "password": "secret secret"}},
    }
    return login(up, {"identity": by_password, "scope": {"project": {"id": project}}})


def login(up: Up, auth: Any) -> str:
    connection = http.client.HTTPConnection(up.url.removeprefix("http://"), timeout=30)
    connection.request("POST", "/identity/v3/auth/tokens", json.dumps({"auth": auth}))
    answer = connection.getresponse()
    assert answer.status == 201, answer.read()
    return str(answer.headers["X-Subject-Token"])


# --- a guest with a name that nobody should have, on a host that is not left alone
NAME = "a<b>&\"';$(reboot)`reboot`|../../etc/passwd %s \\n ☃ ]]> --"


@pytest.fixture(scope="module")
def guest(guest_image: Path) -> Iterator[tuple[Cloud, Guest, str]]:
    with real_cloud(guest_image) as cloud:
        up = cloud.up
        names = [{"op": "replace", "path": "/name", "value": NAME}]
        kind = {"Content-Type": "application/openstack-images-v2.1-json-patch"}
        assert up.ask("PATCH", f"/image/v2/images/{cloud.image}", names, kind)[0] == 200
        network = up.ask("POST", "/networking/v2.0/networks", {"network": {"name": NAME}})[1]["network"]["id"]
        subnet = {"network_id": network, "cidr": "10.91.3.0/24", "ip_version": 4, "name": NAME}
        assert up.ask("POST", "/networking/v2.0/subnets", {"subnet": subnet})[0] == 201
        cloud.key("the key - _")
        guest = cloud.boot(NAME, [network], "the key - _", metadata={"K-_:. 9": NAME}, config_drive=True)
        guest.awaits_boot()
        yield cloud, guest, network


def repaired(cloud: Cloud) -> None:
    until(lambda: cloud.oracle.unexplained() == [], REPAIRED, "the repair")


def mended_since(cloud: Cloud, began: float) -> list[str]:
    return [one.what for _, one in network_checks.lately(cloud.up.state) if one.mended and one.last >= began]


def test_names_arrive_as_they_are(guest: tuple[Cloud, Guest, str]) -> None:
    cloud, server, network = guest
    shown = server.shown()
    assert shown["name"] == NAME
    assert list(shown["addresses"]) == [NAME]
    assert shown["metadata"] == {"K-_:. 9": NAME}
    assert cloud.up.ask("GET", f"/image/v2/images/{cloud.image}")[1]["name"] == NAME
    assert cloud.up.ask("GET", f"/networking/v2.0/networks/{network}")[1]["network"]["name"] == NAME
    told = json.loads(server.run("wget -q -O - http://169.254.169.254/openstack/latest/meta_data.json"))
    assert (told["name"], told["meta"]) == (NAME, {"K-_:. 9": NAME})
    assert list(told["public_keys"]) == ["the key - _"]
    hostname = server.run("hostname")
    assert told["hostname"] == f"{hostname}.novalocal"
    assert all(letter.isalnum() or letter == "-" for letter in hostname)
    assert cloud.oracle.unexplained() == []


@pytest.mark.parametrize(
    "name",
    ["", " ", "x" * 256, "nul\0", "line\nbreak", "\ud800"],
    ids=["", "space", "long", "nul", "line", "half"],
)
def test_names_that_are_refused(guest: tuple[Cloud, Guest, str], name: str) -> None:
    up = guest[0].up
    status, answer = up.ask("POST", "/compute/v2.1/os-keypairs", {"keypair": {"name": name}})
    assert status == 400, answer
    server = {"name": name, "imageRef": guest[0].image, "flavorRef": "42", "networks": "none"}
    status, answer = up.ask("POST", SERVERS, {"server": server})
    assert status == 400, answer


def test_dnsmasq_is_killed(guest: tuple[Cloud, Guest, str]) -> None:
    cloud, server, network = guest
    for _ in range(2):
        pid = cloud.oracle.dnsmasqs()[network]
        os.kill(pid, signal.SIGKILL)
        until(lambda pid=pid: cloud.oracle.dnsmasqs().get(network) not in (None, pid), REPAIRED, "another")
        repaired(cloud)  # and nobody kills one that is just being started
    # The guest loses its address, asks for it again, and has it: dnsmasq knows it.
    server.run("(ip -4 addr flush dev eth0; kill -USR1 $(cat /run/udhcpc.eth0.pid)) > /dev/null 2>&1 &")
    until(lambda: server.is_reached(10), 60, "the guest to renew its lease")


def _flush_rules(_network: str) -> list[str]:
    return ["nft", "flush", "ruleset"]


def _of_bridge(network: str) -> list[str]:
    return ["ip", "link", "del", f"brq{network[:11]}"]


def _of_gate(network: str) -> list[str]:
    return ["ip", "link", "del", f"knb{network[:11]}"]


def _of_transit(network: str) -> list[str]:
    return ["ip", "link", "del", f"knt{network[:11]}"]


def _of_namespace(network: str) -> list[str]:
    return ["ip", "netns", "del", f"kn-{network}"]


def _no_forwarding(_network: str) -> list[str]:
    return ["sysctl", "-qw", "net.ipv4.ip_forward=0"]


@pytest.mark.parametrize(
    "damage", [_flush_rules, _of_bridge, _of_gate, _of_transit, _of_namespace, _no_forwarding]
)
def test_the_network_is_damaged(guest: tuple[Cloud, Guest, str], damage: Callable[[str], list[str]]) -> None:
    cloud, server, network = guest
    repaired(cloud)  # whatever the test before it found
    subprocess.run(damage(network), check=True)
    assert cloud.oracle.unexplained() != []
    began = time.time()
    repaired(cloud)
    until(lambda: mended_since(cloud, began), REPAIRED, "the doctor to know of it")
    until(lambda: server.is_reached(5), REPAIRED, "the guest to be reached again")
    assert server.run("wget -q -O - http://169.254.169.254/latest/meta-data/hostname")


def test_a_tap_is_deleted(guest: tuple[Cloud, Guest, str]) -> None:
    """QEMU had the device open: the guest is on the network again when its machine is made anew."""
    cloud, server, _ = guest
    links = json.loads(subprocess.run(["ip", "-j", "link"], capture_output=True, check=True).stdout)
    (tap,) = [link["ifname"] for link in links if link["ifname"].startswith("tap")]
    subprocess.run(["ip", "link", "del", tap], check=True)
    repaired(cloud)
    assert server.shown()["status"] == "ACTIVE"
    server.act(reboot={"type": "HARD"})
    server.becomes("ACTIVE")
    server.awaits_boot()
    assert cloud.oracle.unexplained() == []


def test_all_that_mending_left_no_thread_in_a_network_of_guests(guest: tuple[Cloud, Guest, str]) -> None:
    """What a thread does inside a namespace ends with that thread."""
    up = guest[0].up
    until(
        lambda: strays_of(up.pid) == [], REPAIRED, "every thread of kilonova up to be on the host's network"
    )


def test_it_goes_without_a_trace(guest: tuple[Cloud, Guest, str]) -> None:
    cloud, server, _ = guest
    cloud.delete(server)
    assert cloud.oracle.left() == []
    assert cloud.up.stop() == 0
