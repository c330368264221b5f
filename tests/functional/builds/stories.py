"""What can become of a server, well and badly, each story short. Together they pass every fault point."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import structs
from tests.functional.builds.cloud import PATIENCE, Cloud
from tests.functional.builds.volume_stories import VOLUME_STORIES
from tests.running import until

from kilonova.config import Config, Operations
from kilonova.domain.errors import BuildFailed

CONFIG = structs.replace(Config(), operations=Operations(max_attempts=2))
Story = Callable[[Cloud], None]
"""On a cloud of its own: two hosts, CONFIG."""


def a_whole_life(cloud: Cloud) -> None:
    server_id = cloud.active(cloud.make_network(), config_drive=True)
    for action in ("os-stop", "os-start", "pause", "unpause", "suspend", "resume"):
        _does(cloud, server_id, action)
    for kind in ("SOFT", "HARD"):
        _does(cloud, server_id, "reboot", {"type": kind})
    cloud.delete(server_id)
    cloud.gone(server_id)


def a_build_that_fails_on_every_host(cloud: Cloud) -> None:
    for host in cloud.hosts.values():
        host.driver.failures["ensure_paused"] = [BuildFailed("no")]
    server_id = cloud.create(cloud.make_network())
    assert cloud.settled(server_id)["status"] == "ERROR"
    cloud.delete(server_id)
    cloud.gone(server_id)


def a_build_with_no_time(cloud: Cloud) -> None:
    cloud.bus.lost["build_and_run_instance"] = 1
    server_id = cloud.create(cloud.make_network())
    _overdue(cloud, server_id, "build_and_run_instance")


def an_action_with_no_time(cloud: Cloud) -> None:
    server_id = cloud.active()
    cloud.bus.lost["perform_action"] = 1
    assert cloud.act(server_id, "os-stop") == 202
    _overdue(cloud, server_id, "perform_action")


def a_delete_with_no_time(cloud: Cloud) -> None:
    server_id = cloud.active()
    cloud.bus.lost["delete_instance"] = 1
    cloud.delete(server_id)
    _overdue(cloud, server_id, "delete_instance")


def a_host_that_hears_of_its_build_the_second_time(cloud: Cloud) -> None:
    cloud.bus.lost["build_and_run_instance"] = 1
    server_id = cloud.create()
    _placed(cloud, server_id)
    cloud.leases_run_out()
    cloud.sweep()
    assert cloud.settled(server_id)["status"] == "ACTIVE"


def a_host_that_is_left(cloud: Cloud) -> None:
    cloud.bus.lost["build_and_run_instance"] = 1
    server_id = cloud.create()
    _placed(cloud, server_id)
    cloud.hosts[cloud.open_operation(server_id).host].vanish()
    cloud.conductor_forgets_liveness()
    cloud.leases_run_out()
    cloud.sweep()
    assert cloud.settled(server_id)["status"] == "ACTIVE"


def nics_that_come_and_go(cloud: Cloud) -> None:
    network = cloud.make_network()
    server_id = cloud.active(network)
    port = _attach(cloud, server_id, network)
    _detach(cloud, server_id, port)
    cloud.bus.refused["change_interfaces"] = 1
    assert _attach(cloud, server_id, network) == ""
    cloud.leases_run_out()
    cloud.sweep()
    cloud.settled(server_id)
    cloud.bus.refused["change_interfaces"] = 1
    _, listed = cloud.ask("GET", f"/compute/v2.1/servers/{server_id}/os-interface")
    port = listed["interfaceAttachments"][1]["port_id"]
    assert cloud.ask("DELETE", f"/compute/v2.1/servers/{server_id}/os-interface/{port}")[0] == 202
    cloud.leases_run_out()
    cloud.sweep()
    cloud.settled(server_id)


def nics_that_do_not_come_nor_go(cloud: Cloud) -> None:
    network = cloud.make_network()
    server_id = cloud.active(network)
    driver = cloud.where(server_id).driver
    driver.failures["attach_interface"] = [BuildFailed("no")]
    assert _attach(cloud, server_id, network) == ""
    cloud.bus.refused["change_interfaces"] = 1
    assert _attach(cloud, server_id, network) == ""
    cloud.deadlines_pass()
    cloud.sweep()
    cloud.settled(server_id)


def disks_that_become_images(cloud: Cloud) -> None:
    server_id = cloud.active()
    _does(cloud, server_id, "createImage", {"name": "s"})
    _does(cloud, server_id, "createBackup", {"name": "b", "backup_type": "daily", "rotation": 0})
    driver = cloud.where(server_id).driver
    for kind, value in (
        ("createImage", {"name": "s"}),
        ("createBackup", {"name": "b", "backup_type": "daily", "rotation": 1}),
    ):
        driver.failures["take_snapshot"] = [BuildFailed("no")]
        _does(cloud, server_id, kind, value)


def ports_that_go_and_change(cloud: Cloud) -> None:
    """By the network's API, and as another network service says it."""
    network = cloud.make_network()
    server_id = cloud.active(network)
    ports = [_attach(cloud, server_id, network) for _ in range(2)]
    driver = cloud.where(server_id).driver
    down = {"port": {"admin_state_up": False}}
    assert cloud.ask("PUT", f"/networking/v2.0/ports/{ports[0]}", down)[0] == 200
    until(lambda: False in driver.interfaces(server_id).values(), PATIENCE, "the link to be down")
    assert cloud.ask("DELETE", f"/networking/v2.0/ports/{ports[0]}")[0] == 204
    until(lambda: len(driver.interfaces(server_id)) == 2, PATIENCE, "the NIC to go")
    event = {"name": "network-vif-deleted", "server_uuid": server_id, "tag": ports[1]}
    path = "/compute/v2.1/os-server-external-events"
    assert cloud.ask("POST", path, {"events": [event]}, caller="admin")[0] == 200
    until(lambda: len(driver.interfaces(server_id)) == 1, PATIENCE, "the other to go")


def other_disks(cloud: Cloud) -> None:
    server_id = cloud.active(cloud.make_network(), config_drive=True)
    image = {"imageRef": "22222222-3333-4444-5555-666666666666"}
    _does(cloud, server_id, "rebuild", image)
    assert cloud.act(server_id, "rescue") == 200
    cloud.settled(server_id)
    _does(cloud, server_id, "unrescue")
    _does(cloud, server_id, "os-stop")
    _does(cloud, server_id, "rebuild", image)


def away_for_a_while(cloud: Cloud) -> None:
    server_id = cloud.active(cloud.make_network(), config_drive=True)
    _does(cloud, server_id, "shelve")
    cloud.sql("UPDATE hosts SET vcpus_limit = 0")
    cloud.conductor_forgets_liveness()
    _does(cloud, server_id, "unshelve")
    cloud.sql("UPDATE hosts SET vcpus_limit = 64")
    cloud.conductor_forgets_liveness()
    _does(cloud, server_id, "unshelve")


STORIES: list[Story] = [
    a_whole_life,
    a_build_that_fails_on_every_host,
    a_build_with_no_time,
    an_action_with_no_time,
    a_delete_with_no_time,
    a_host_that_hears_of_its_build_the_second_time,
    a_host_that_is_left,
    nics_that_come_and_go,
    nics_that_do_not_come_nor_go,
    disks_that_become_images,
    other_disks,
    away_for_a_while,
    ports_that_go_and_change,
    *VOLUME_STORIES,
]


def _attach(cloud: Cloud, server_id: str, network: str) -> str:
    """The id of the port; empty if it was not attached (yet)."""
    body = {"interfaceAttachment": {"net_id": network}}
    status, answer = cloud.ask("POST", f"/compute/v2.1/servers/{server_id}/os-interface", body)
    return str(answer["interfaceAttachment"]["port_id"]) if status == 200 else ""


def _detach(cloud: Cloud, server_id: str, port: str) -> None:
    assert cloud.ask("DELETE", f"/compute/v2.1/servers/{server_id}/os-interface/{port}")[0] == 202
    cloud.settled(server_id)


def _does(cloud: Cloud, server_id: str, action: str, value: object = None) -> None:
    assert cloud.act(server_id, action, value) == 202
    cloud.settled(server_id)


def _overdue(cloud: Cloud, server_id: str, lost: str) -> None:
    until(lambda: not cloud.bus.lost[lost], PATIENCE, "the loss")
    cloud.deadlines_pass()
    cloud.sweep()
    assert cloud.settled(server_id)["status"] == "ERROR"


def _placed(cloud: Cloud, server_id: str) -> None:
    until(lambda: cloud.open_operation(server_id).host, PATIENCE, "the host")
