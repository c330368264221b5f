"""A host whose builds are slow: what takes a moment has its own way past them."""

from __future__ import annotations

import pytest
from tests.functional.builds.cloud import PATIENCE, Cloud
from tests.functional.builds.conftest import MakeCloud
from tests.running import until

from kilonova.config import Compute, Config, Fake, Quota

BUILDS = 2
WAITING = 10
"""More than the host has threads for anything."""


@pytest.fixture
def busy(make_cloud: MakeCloud) -> Cloud:
    """Its host builds no more than so many servers at once."""
    return make_cloud(
        config=Config(compute=Compute(max_concurrent_builds=BUILDS), quota=Quota(instances=-1, cores=-1))
    )


def fill(cloud: Cloud, step: str) -> list[str]:
    """Servers that are built or wait to be, when every place for builds is taken by that step."""
    driver = cloud.hosts["h1"].driver
    before = driver.steps.count(step)
    building = [cloud.create() for _ in range(BUILDS + WAITING)]
    until(lambda: driver.steps.count(step) == before + BUILDS, PATIENCE, "every place to be taken")
    return building


def test_slow_builds_do_not_hold_up_what_is_short(busy: Cloud) -> None:
    lives = [busy.active() for _ in range(2)]
    gate = busy.hosts["h1"].driver.gate("ensure_disks")
    building = fill(busy, "ensure_disks")

    assert busy.act(lives[0], "os-stop") == 202
    assert busy.settled(lives[0])["status"] == "SHUTOFF"
    assert busy.act(lives[1], "reboot", {"type": "HARD"}) == 202
    assert busy.settled(lives[1])["status"] == "ACTIVE"
    busy.delete(lives[0])
    busy.gone(lives[0])

    assert busy.hosts["h1"].driver.steps.count("ensure_disks") == len(lives) + BUILDS
    gate.open()
    for server_id in building:
        assert busy.settled(server_id)["status"] == "ACTIVE"
    assert busy.unexplained() == []


def test_a_delete_overtakes_the_build_that_waits_for_its_turn(busy: Cloud) -> None:
    """It is done at once; when the build's turn comes, nothing is built."""
    gate = busy.hosts["h1"].driver.gate("ensure_disks")
    building = fill(busy, "ensure_disks")
    late = busy.create(busy.make_network())
    until(lambda: busy.open_operation(late).owner == "compute.h1", PATIENCE, "the hand-over")
    busy.delete(late)
    busy.gone(late)
    gate.open()
    for server_id in building:
        assert busy.settled(server_id)["status"] == "ACTIVE"
        busy.delete(server_id)
        busy.gone(server_id)
    until(busy.bus.all_taken, PATIENCE, "the deleted one's turn")
    assert busy.hosts["h1"].is_empty()
    assert busy.hosts["h1"].driver.steps.count("ensure_disks") == len(building)
    assert busy.unexplained() == []


def test_a_delete_cancels_its_build_though_every_place_is_taken(make_cloud: MakeCloud) -> None:
    """No build here ends by itself in the time of a test."""
    config = Config(
        compute=Compute(max_concurrent_builds=BUILDS),
        quota=Quota(instances=-1, cores=-1),
        fake=Fake(step_seconds={"ensure_base_image": 600.0}),
    )
    cloud = make_cloud(config=config)
    building = fill(cloud, "ensure_base_image")
    for server_id in building:
        cloud.delete(server_id)
    for server_id in building:
        cloud.gone(server_id)
    until(cloud.bus.all_taken, PATIENCE, "the turn of all")
    assert cloud.hosts["h1"].is_empty()
    assert cloud.unexplained() == []


def test_a_build_whose_turn_did_not_come_is_handed_over_again_and_built_once(busy: Cloud) -> None:
    """It has no lease until it has begun: the sweeper takes it up again as often as that takes."""
    driver = busy.hosts["h1"].driver
    gate = driver.gate("ensure_disks")
    building = fill(busy, "ensure_disks")
    begun = set(busy.hosts["h1"].agent._running.held())
    for _ in range(2):
        # Those that are worked on are kept: the agent renews their leases.
        busy.sql("UPDATE operations SET lease_until = 1 WHERE state = 'open'")
        for operation_id in begun:
            busy.sql("UPDATE operations SET lease_until = 9e9 WHERE id = ?", operation_id)
        busy.sweep()
    gate.open()
    for server_id in building:
        assert busy.settled(server_id)["status"] == "ACTIVE"
    until(busy.bus.all_taken, PATIENCE, "the old messages to be read")
    assert driver.steps.count("ensure_disks") == len(building)
    assert busy.unexplained() == []
