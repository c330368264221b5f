"""A cluster as docs/how-to/run-a-cluster.md makes it, under a real systemd: the units work, with all that
they forbid; guests outlive their agent; and a restart of everything fails no request."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyroute2 import netns
from tests.rabbit import installed
from tests.running import Client, until
from tests.systemd_box import ADDRESS, Box, unavailable
from tests.tgt import installed as tgt_installed

pytestmark = pytest.mark.system
CONTROL = ("kilonova-api", "kilonova-conductor", "kilonova-scheduler", "kilonova-volume")


@pytest.fixture
def box() -> Iterator[Box]:
    if reason := unavailable() or ("" if installed() else "needs RabbitMQ and PostgreSQL"):
        pytest.skip(reason)
    made = Box()
    try:
        yield made.start()
    finally:
        made.close()


@pytest.fixture
def cloud(box: Box) -> Iterator[Client]:
    """One machine that is control node and compute host; this thread is on its network."""
    if not box.run("pg_lsclusters", "-h").strip():
        version = max(path.name for path in Path("/usr/lib/postgresql").iterdir())
        box.run("pg_createcluster", version, "main")
    box.run("kilonova", "cluster", "init", "--address", ADDRESS)
    box.run("kilonova", "cluster", "add-host", "node1", "--output", "/root/node1.join")
    box.run("kilonova", "cluster", "join", "/root/node1.join")
    with Path("/proc/thread-self/ns/net").open() as home:
        netns.setns(f"/proc/{box.pid}/ns/net", flags=0)
        try:
            client = Client(box.path("/var/lib/kilonova"))
            client.url = f"http://{ADDRESS}:8774"
            yield client
        finally:
            netns.setns(home.fileno())


def test_a_cluster_under_systemd(box: Box, cloud: Client) -> None:
    image, network = cloud.image(b"\0" * 512), cloud.network()
    _, answer = cloud.post_server(image, network)
    server_id = answer["server"]["id"]
    server = cloud.settled(server_id)
    assert (server["status"], server["OS-EXT-SRV-ATTR:host"]) == ("ACTIVE", "node1"), server
    guest = guests(box)
    assert len(guest) == 1

    volume = volume_by_iscsi(box, cloud, server_id)

    box.run("systemctl", "restart", "kilonova-compute")
    assert guests(box) == guest
    box.run("systemctl", "kill", "--signal=KILL", "--kill-who=main", "kilonova-compute")
    until(lambda: restarts(box) == 1, 60, "systemd to start the agent again")
    assert guests(box) == guest

    failed = asks_while(cloud, lambda: box.run("systemctl", "restart", "kilonova-*.service"))
    assert failed == []
    assert cloud.settled(server_id)["status"] == "ACTIVE"
    cloud.ask("DELETE", f"/compute/v2.1/servers/{server_id}")
    until(lambda: cloud.server(server_id) is None, 60, "it to go")
    until(lambda: guests(box) == set(), 60, "its guest to go")
    if volume:
        until(lambda: is_free(cloud, volume), 60, "its volume to be free")
        until(lambda: targets(box) == "", 60, "nothing to be served")

    assert box.run("ps", "-o", "user=", "-C", "kilonova").split().count("kilonova") == len(CONTROL)
    box.run("systemctl", "stop", "kilonova.target")
    for unit in (*CONTROL, "kilonova-compute"):
        until(lambda unit=unit: state(box, unit) == "inactive", 60, f"{unit} to stop")
        assert box.run("systemctl", "show", "--property=Result", "--value", unit).strip() == "success"


def volume_by_iscsi(box: Box, cloud: Client, server_id: str) -> str:
    """A volume of the server's, which the unit's own tgtd serves as the user kilonova, also after it was
    killed; its id. Empty without tgt."""
    if not tgt_installed():
        return ""
    with box.path("/etc/kilonova/control.toml").open("a") as config:
        config.write(_DISKS)
    box.run("systemctl", "enable", "--now", "kilonova-tgt")
    box.run("systemctl", "restart", "kilonova-volume")
    status, made = cloud.ask("POST", "/volume/v3/volumes", {"volume": {"size": 1}})
    assert status == 202, made
    volume = str(made["volume"]["id"])
    until(lambda: is_free(cloud, volume), 60, "the volume")
    path = f"/compute/v2.1/servers/{server_id}/os-volume_attachments"
    status, answer = cloud.ask("POST", path, {"volumeAttachment": {"volumeId": volume}})
    assert status == 200, answer
    cloud.settled(server_id)
    until(lambda: "Initiator: " in targets(box), 60, f"the guest to have it: {answer}")
    box.run("systemctl", "kill", "--signal=KILL", "--kill-who=main", "kilonova-tgt")
    until(lambda: "Initiator: " in targets(box), 60, "the guest to have it again")
    assert box.run("ps", "-o", "user=", "-C", "tgtd").split() == ["kilonova"]
    return volume


def is_free(cloud: Client, volume: str) -> bool:
    shown = cloud.ask("GET", f"/volume/v3/volumes/{volume}")[1]["volume"]
    assert not shown["status"].startswith("error"), shown
    return bool(shown["status"] == "available")


def targets(box: Box) -> str:
    """What tgtd says that it serves, to the only one to whom it says anything."""
    show = ["tgtadm", "--lld", "iscsi", "--op", "show", "--mode", "target"]
    socket = "TGT_IPC_SOCKET=/run/kilonova-tgt/socket"
    return box.run("runuser", "-u", "kilonova", "--", "env", socket, *show, check=False)


_DISKS = f"""
[volume.backends.disks]
driver = "iscsi"
target_ip_address = "{ADDRESS}"
tgt_socket = "/run/kilonova-tgt/socket.0"
"""


def guests(box: Box) -> set[str]:
    """Their process ids, in the box."""
    return set(box.run("pgrep", "-f", "guest=instance-", check=False).split())


def restarts(box: Box) -> int:
    shown = box.run("systemctl", "show", "--property=NRestarts", "--value", "kilonova-compute").strip()
    return int(shown) if state(box, "kilonova-compute") == "active" else 0


def state(box: Box, unit: str) -> str:
    return box.run("systemctl", "is-active", unit, check=False).strip()


def asks_while(cloud: Client, do: object) -> list[str]:
    """What clients met while it was done."""
    failed: list[str] = []
    ended = threading.Event()

    def ask() -> None:
        while not ended.is_set():
            try:
                status, _ = cloud.ask("GET", "/compute/v2.1/flavors")
                assert status == 200, status
            except Exception as error:  # noqa: BLE001 - whatever a client may meet
                failed.append(repr(error))
            ended.wait(0.05)

    asking = threading.Thread(target=ask)  # it is on the same network as the one that starts it
    asking.start()
    try:
        assert callable(do)
        do()
    finally:
        ended.set()
        asking.join()
    return failed
