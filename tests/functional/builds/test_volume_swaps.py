"""A swap that is cut off anywhere: nobody else gets a volume that a guest may still write to."""

from __future__ import annotations

import pytest
from tests.functional.builds.cloud import PATIENCE, Cloud, Host
from tests.functional.builds.test_server_volumes import Volumes
from tests.running import until

from kilonova.domain.errors import BuildFailed, Unavailable
from kilonova.store import operations


class Swap:
    """A server with a volume, and one that is to take its place."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud, self.volumes = cloud, Volumes(cloud)
        self.server, self.old, self.new = cloud.active(), self.volumes.make(), self.volumes.make()
        self.volumes.attached(self.server, self.old)
        self.host: Host = cloud.where(self.server)
        self.driver = self.host.driver

    def begin(self) -> None:
        status, answer = self.volumes.put(self.server, self.old, "admin", volumeId=self.new)
        assert status == 202, answer

    def again(self) -> None:
        self.cloud.leases_run_out()
        self.cloud.sweep()
        self.cloud.settled(self.server)

    def given_again(self) -> None:
        """The host that vanished is told to take it up again, and does not hear it."""
        before = self.cloud.open_operation(self.server).epoch
        self.cloud.leases_run_out()
        self.cloud.sweep()

        def is_the_hosts() -> bool:
            work = self.cloud.open_operation(self.server)
            return bool(work.epoch > before and work.owner == operations.agent(self.host.name))

        until(is_the_hosts, PATIENCE, "a conductor to take it and hand it over")

    def is_done(self) -> bool:
        return self._is(self.new, self.old)

    def is_undone(self) -> bool:
        return self._is(self.old, self.new)

    def _is(self, has: str, free: str) -> bool:
        assert self.volumes.of(self.server) == [has]
        assert self.volumes.of_guest(self.server) == {has}
        assert self.driver.mirrors(self.server) == {}
        assert (self.volumes.status(has), self.volumes.status(free)) == ("in-use", "available")
        self.is_explained()
        return True

    def is_explained(self) -> None:
        """The volume's manager may still be closing a way."""
        until(lambda: not self.cloud.unexplained(), PATIENCE, "all to be explained")


@pytest.fixture
def swap(cloud: Cloud) -> Swap:
    return Swap(cloud)


@pytest.mark.parametrize("step", ["mirror_volume", "swap_volume"])
def test_while_the_hypervisor_is_away_it_has_neither_failed_nor_ended(swap: Swap, step: str) -> None:
    swap.driver.failures[step] = [Unavailable("libvirt is away")]
    swap.begin()
    assert swap.cloud._busy(swap.server)
    assert swap.volumes.status(swap.new) == "attaching"
    assert swap.driver.mirrors(swap.server) == {swap.old: swap.new}
    swap.again()
    assert swap.is_done()


def test_a_copy_that_cannot_be_ended_keeps_the_volume(swap: Swap) -> None:
    swap.driver.failures["swap_volume"] = [BuildFailed("no")]
    swap.driver.failures["end_mirrors"] = [Unavailable("libvirt is away")]
    swap.begin()
    assert swap.volumes.status(swap.new) == "attaching"
    swap.again()
    assert swap.is_done()


def test_past_its_deadline_its_host_ends_it(swap: Swap) -> None:
    swap.driver.failures["swap_volume"] = [Unavailable("libvirt is away")]
    swap.begin()
    swap.cloud.deadlines_pass()
    swap.host.vanish()
    swap.given_again()
    assert swap.volumes.status(swap.new) == "attaching", "the guest writes to it"
    swap.host.agent.stop()
    swap.host.start()
    swap.again()
    assert swap.is_undone()
    failed = swap.cloud.actions(swap.server)[-1]
    assert failed["action"] == "swap_volume"
    assert "connect_volume" in [one["event"] for one in failed["events"] if one["result"] == "Error"]


def test_a_lost_answer_of_the_last_step_is_a_swap(swap: Swap) -> None:
    swap.cloud.bus.broken["finished"] = 1
    swap.begin()
    assert swap.volumes.of_guest(swap.server) == {swap.new}
    swap.again()
    assert swap.is_done()


def test_before_the_guest_goes_over_the_conductor_is_asked(swap: Swap) -> None:
    """Who was away while it copied, and whose work is another's by now, leaves the guest where it is."""
    gate = swap.driver.gate("mirror_volume")
    swap.begin()
    gate.wait_until_reached()
    swap.cloud.sql(
        "UPDATE operations SET epoch = epoch + 1, owner = 'x', lease_until = 1 WHERE state = 'open'"
    )
    gate.open()
    until(lambda: "end_mirrors" in swap.driver.steps, PATIENCE, "the copy to be given up")
    assert swap.volumes.of_guest(swap.server) == {swap.old}
    swap.again()
    assert swap.is_done()


def test_a_copy_that_no_work_explains_is_ended(swap: Swap) -> None:
    swap.driver._update(swap.server, mirrors={swap.old: swap.new})
    swap.host.agent.stop()
    swap.host.start()
    until(lambda: swap.driver.mirrors(swap.server) == {}, PATIENCE, "the copy to be ended")
    assert swap.is_undone()


@pytest.mark.parametrize("late", [True, False])
def test_of_a_host_that_was_forced_down_it_ends(swap: Swap, late: bool) -> None:
    """Nobody else knows whether its guest still writes to the volume; and before the deadline, too."""
    cloud = swap.cloud
    swap.driver.failures["swap_volume"] = [Unavailable("libvirt is away")]
    swap.begin()
    swap.host.vanish()
    if late:
        cloud.deadlines_pass()
    swap.given_again()
    cloud.leases_run_out()
    assert swap.volumes.status(swap.new) == "attaching", "nobody said that the host is dead"

    force_down(cloud, swap.host)
    cloud.sweep()
    assert cloud.settled(swap.server)["status"] == "ACTIVE"
    assert swap.volumes.of(swap.server) == [swap.old]
    assert (swap.volumes.status(swap.old), swap.volumes.status(swap.new)) == ("in-use", "available")
    swap.is_explained()
    (event,) = [one for one in cloud.actions(swap.server)[-1]["events"] if one["event"] == "swap_volume"]
    assert event["result"] == "Error"

    # Should it come back all the same, its guest writes to the volume no more.
    swap.host.agent.stop()
    swap.host.start()
    until(lambda: swap.driver.mirrors(swap.server) == {}, PATIENCE, "the copy to be ended")
    assert swap.is_undone()


def force_down(cloud: Cloud, host: Host) -> None:
    ((service,),) = cloud.sql("SELECT id FROM services WHERE host = ?", host.name)
    path, body = f"/compute/v2.1/os-services/{service}", {"forced_down": True}
    assert cloud.ask("PUT", path, body, "admin")[0] == 200
