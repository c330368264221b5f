"""The whole path with real guests: what a user of the cloud does in the life of two servers.

Booting is what takes time here, so all tests share one cloud: each finds its guest running (or starts it) and
leaves it so. They run in this order; any of them runs alone as well.
"""

from __future__ import annotations

import base64
import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.host_oracle import ended
from tests.running import until
from tests.system.cloud import SERVERS, Cloud, Guest, real_cloud

pytestmark = pytest.mark.system

USER_DATA = b"#!/bin/sh\necho user data ran on $(hostname) > /run/user-data-was-here\n"
METADATA = "http://169.254.169.254/openstack/latest/meta_data.json"
NOTICED = 60.0
"""Seconds that tests wait for the API to show what happened to a guest: it is told, and looks by itself only
every 600. `python -m bench power` measures it."""


@dataclass
class Servers:
    cloud: Cloud
    networks: list[str]
    first: Guest
    """On both networks, with a config drive and user data."""
    second: Guest
    """On the second network, with the metadata service."""

    def pid(self, guest: Guest) -> int:
        return self.cloud.oracle.guests()[guest.id]

    def running(self, guest: Guest) -> Guest:
        """The guest, with its system up."""
        if guest.shown()["status"] != "ACTIVE":
            guest.act(os_start=None)
            guest.becomes("ACTIVE")
        guest.awaits_boot()
        return guest

    def all_is_well(self) -> None:
        assert self.cloud.oracle.unexplained() == []


@pytest.fixture(scope="module")
def servers(guest_image: Path) -> Iterator[Servers]:
    with real_cloud(guest_image) as cloud:
        up = cloud.up
        cloud.key("k")
        networks = [up.network("10.91.1.0/24"), up.network("10.91.2.0/24")]
        first = cloud.boot(
            "first",
            networks,
            "k",
            config_drive=True,
            user_data=base64.b64encode(USER_DATA).decode(),
            metadata={"colour": "blue"},
        )
        second = cloud.boot("second", networks[1:], "k", metadata={"colour": "red"}, tags=["one", "two"])
        yield Servers(cloud, networks, first, second)


def test_who_they_are_arrives(servers: Servers) -> None:
    first, second = servers.running(servers.first), servers.running(servers.second)
    assert first.run("hostname; cat /run/user-data-was-here") == "first\nuser data ran on first"
    assert second.run("hostname; ls /run/user-data-was-here 2>&1 | grep -c 'No such'") == "second\n1"
    for guest, source in ((first, "config-drive"), (second, "metadata")):
        until(lambda guest=guest: "login:" in guest.console(), 60, "the login prompt")
        assert f"cloud: source={source} hostname={guest.shown()['name']}" in guest.console()
    servers.all_is_well()


def test_both_networks_work(servers: Servers) -> None:
    first, second = servers.running(servers.first), servers.running(servers.second)
    own = [servers.cloud.address(first.id, network) for network in servers.networks]
    assert [ip for ip in own if f" {ip}/24" not in first.run("ip -4 -o addr")] == []
    first.run(f"ping -c 1 -W 5 {second.address}")
    second.run(f"ping -c 1 -W 5 {own[1]}")
    shown = first.shown()["addresses"]
    assert sorted(one["addr"] for several in shown.values() for one in several) == sorted(own)


def test_metadata_and_tags(servers: Servers) -> None:
    second, ask = servers.running(servers.second), servers.cloud.up.ask
    path = f"{SERVERS}/{second.id}"
    assert ask("PUT", f"{path}/metadata/colour", {"meta": {"colour": "green"}})[0] == 200
    told = json.loads(second.run(f"wget -q -O - {METADATA}"))
    assert told["meta"] == {"colour": "green"}
    assert told["uuid"] == second.id
    assert "admin_pass" not in told

    assert ask("DELETE", f"{path}/tags/one")[0] == 204
    assert ask("GET", f"{path}/tags") == (200, {"tags": ["two"]})
    found = ask("GET", f"{SERVERS}?tags=two")[1]["servers"]
    assert [server["name"] for server in found] == ["second"]

    # The first one's are on its drive, as they were when it was made.
    drive = "mkdir -p /run/d; mount -o ro LABEL=config-2 /run/d 2>/dev/null || mount -o ro /dev/sr0 /run/d"
    read = servers.running(servers.first).run(
        f"({drive}) && cat /run/d/openstack/latest/meta_data.json; umount /run/d"
    )
    assert json.loads(read)["meta"] == {"colour": "blue"}
    assert "admin_pass" in json.loads(read)


def test_pause_and_unpause(servers: Servers) -> None:
    second = servers.running(servers.second)
    pid, uptime = servers.pid(second), second.uptime()
    second.act(pause=None)
    assert second.becomes("PAUSED")["OS-EXT-STS:power_state"] == 3
    assert not second.is_reached(within=2)
    servers.all_is_well()
    second.act(unpause=None)
    assert second.becomes("ACTIVE")["OS-EXT-STS:power_state"] == 1
    assert second.uptime() > uptime
    assert servers.pid(second) == pid


def test_suspend_and_resume(servers: Servers) -> None:
    second = servers.running(servers.second)
    uptime = second.uptime()
    second.run("echo remembered > /run/suspended")
    second.act(suspend=None)
    second.becomes("SUSPENDED")
    assert second.id not in servers.cloud.oracle.guests()
    servers.all_is_well()
    second.act(resume=None)
    second.becomes("ACTIVE")
    assert second.run("cat /run/suspended", within=60) == "remembered"
    assert second.uptime() > uptime
    servers.all_is_well()


@pytest.mark.parametrize("way", ["SIGINT", "SIGKILL"])
def test_guests_outlive_kilonova(servers: Servers, way: str) -> None:
    up = servers.cloud.up
    guests = [servers.running(servers.first), servers.running(servers.second)]
    pids, uptimes = [servers.pid(guest) for guest in guests], [guest.uptime() for guest in guests]
    if way == "SIGINT":
        assert up.stop() == 0
    else:
        assert up.kill() == -9
    for guest in guests:
        guest.run("true")  # nobody is needed for the guests to go on, nor for their network

    up.start()
    assert [guest.shown()["status"] for guest in guests] == ["ACTIVE", "ACTIVE"]
    assert [servers.pid(guest) for guest in guests] == pids
    assert [guest.uptime() > before for guest, before in zip(guests, uptimes, strict=True)] == [True, True]
    servers.all_is_well()
    # They are still managed: what is done to one works, and its metadata is served.
    first, second = guests
    first.act(pause=None)
    first.becomes("PAUSED")
    first.act(unpause=None)
    first.becomes("ACTIVE")
    assert json.loads(second.run(f"wget -q -O - {METADATA}"))["name"] == "second"


def test_a_guest_that_powers_itself_off(servers: Servers) -> None:
    second = servers.running(servers.second)
    gone = ended(servers.pid(second))
    second.power_off()
    assert gone(60)
    assert second.becomes("SHUTOFF", within=NOTICED)["OS-EXT-STS:power_state"] == 4
    servers.all_is_well()


def test_a_qemu_that_is_killed(servers: Servers) -> None:
    second = servers.second
    if second.shown()["status"] == "SHUTOFF":
        second.act(os_start=None)
    second.becomes("ACTIVE")
    pid = servers.pid(second)
    gone = ended(pid)
    os.kill(pid, signal.SIGKILL)
    assert gone(60)
    second.becomes("SHUTOFF", within=NOTICED)
    servers.all_is_well()


def test_a_guest_that_went_off_while_nobody_looked(servers: Servers) -> None:
    first, up = servers.running(servers.first), servers.cloud.up
    first.run("echo kept > /root/kept; sync")
    gone = ended(servers.pid(first))
    up.kill()
    (console,) = up.state.glob(f"hosts/*/instances/{first.id}/console.log")
    first.power_off()
    # Its QEMU stays, stopped, until somebody takes note.
    until(lambda: "Power down" in console.read_text(errors="replace"), 60, "the guest to be off")
    up.start()
    first.becomes("SHUTOFF", within=NOTICED)
    assert gone(60)
    servers.all_is_well()
    assert servers.running(first).run("cat /root/kept; hostname") == "kept\nfirst"
    servers.all_is_well()


def test_soft_reboot(servers: Servers) -> None:
    first = servers.running(servers.first)
    first.run("touch /run/before")
    first.act(reboot={"type": "SOFT"})
    first.becomes("ACTIVE", within=150)
    first.awaits_boot()
    assert first.run("ls /run/before 2>&1 | grep -c 'No such'") == "1"
    assert first.run("cat /run/cloud/source 2>/dev/null; hostname") == "first"
    servers.all_is_well()


def test_hard_reboot(servers: Servers) -> None:
    first = servers.running(servers.first)
    first.run("touch /run/before")
    pid = servers.pid(first)
    first.act(reboot={"type": "HARD"})
    first.becomes("ACTIVE")
    assert servers.pid(first) != pid
    first.awaits_boot()
    assert first.run("ls /run/before 2>&1 | grep -c 'No such'") == "1"
    servers.all_is_well()


def test_stop_and_start(servers: Servers) -> None:
    first = servers.running(servers.first)
    first.act(os_stop=None)
    first.becomes("SHUTOFF", within=120)
    assert "Power down" in first.console()[-200:], "it was asked, and its plug not pulled"
    servers.all_is_well()
    first.act(os_start=None)
    first.becomes("ACTIVE")
    servers.all_is_well()


def test_stop_while_it_boots(servers: Servers) -> None:
    """A power button that is pressed too early is not heard: it is pressed again."""
    first = servers.first
    if first.shown()["status"] == "SHUTOFF":
        first.act(os_start=None)
        first.becomes("ACTIVE")
    first.act(os_stop=None)
    first.becomes("SHUTOFF", within=120)
    assert "Power down" in first.console()[-200:]
    servers.all_is_well()


def test_its_disk_becomes_an_image_of_which_it_is_rebuilt(servers: Servers) -> None:
    guest, up = servers.running(servers.second), servers.cloud.up
    guest.run("echo kept > kept; sync")
    path = f"{SERVERS}/{guest.id}/action"
    before = guest.uptime()
    status, answer = up.ask("POST", path, {"createImage": {"name": "of-second"}})
    assert status == 202, answer
    guest.becomes("ACTIVE", 120)
    assert guest.uptime() > before, "it went on"
    _, image = up.ask("GET", f"/image/v2/images/{answer['image_id']}")
    assert (image["status"], image["disk_format"], image["instance_uuid"]) == ("active", "qcow2", guest.id)

    guest.run("echo lost > lost; sync")
    guest.act(rebuild={"imageRef": image["id"]})
    guest.becomes("ACTIVE", 120)
    guest.awaits_boot()
    assert guest.run("cat kept; ls lost 2>&1 | grep -c 'No such'") == "kept\n1"
    servers.all_is_well()

    assert up.ask("DELETE", f"/image/v2/images/{image['id']}")[0] == 204


def test_rescue_from_another_image_and_back(servers: Servers) -> None:
    guest = servers.running(servers.second)
    guest.run("echo here > here; sync")
    guest.act(rescue={"rescue_image_ref": servers.cloud.image})
    guest.becomes("RESCUE", 120)
    guest.awaits_boot()
    assert guest.run("grep -c 'vdb$' /proc/partitions") == "1", "its own disk, beside the other"
    guest.act(unrescue=None)
    guest.becomes("ACTIVE", 120)
    guest.awaits_boot()
    assert guest.run("cat here; grep -c 'vdb$' /proc/partitions || true") == "here\n0"
    servers.all_is_well()


def test_delete_leaves_nothing(servers: Servers) -> None:
    cloud = servers.cloud
    servers.all_is_well()
    cloud.delete(servers.first, servers.second)
    assert cloud.up.unexplained() == []
    assert cloud.oracle.left() == []
    for network in servers.networks:
        assert cloud.up.ask("DELETE", f"/networking/v2.0/networks/{network}")[0] == 204
    assert cloud.up.ask("DELETE", f"/image/v2/images/{cloud.image}")[0] == 204
    assert cloud.up.stop() == 0
    assert cloud.oracle.left() == []
    assert [
        path for path in cloud.up.state.glob("images/**/*") if path.is_file() and path.name != ".lock"
    ] == []
