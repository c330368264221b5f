"""The fake driver's own: knobs, memory on disk, and how cheap it is."""

from __future__ import annotations

import threading
import time
import tracemalloc
import uuid
from pathlib import Path

import pytest

from kilonova.cancel import Cancel
from kilonova.config import Config, Fake
from kilonova.domain.errors import BuildFailed, StaleEpoch, Unavailable
from kilonova.domain.servers import BuildSpec, Flavor, ImageRef, PowerState
from kilonova.virt.base import Guest, GuestEvent
from kilonova.virt.fake import FakeDriver

GO_ON = Cancel()
IMAGE = ImageRef(id=str(uuid.UUID(int=1)), disk_format="raw", size=1)
FLAVOR = Flavor(id="1", name="f", vcpus=1, memory_mb=64, root_gb=1)


def make_spec() -> BuildSpec:
    return BuildSpec(
        server_id=str(uuid.uuid4()),
        name="n",
        hostname="n",
        project_id="p",
        user_id="u",
        flavor=FLAVOR,
        image=IMAGE,
    )


def build(driver: FakeDriver, spec: BuildSpec) -> None:
    driver.ensure_base_image(spec, GO_ON)
    driver.ensure_disks(spec, Cancel())
    driver.ensure_paused(spec, [])
    driver.resume_build(spec.server_id)
    driver.wait_for_running(spec.server_id, 1.0)


def test_a_step_fails_as_often_as_it_is_told() -> None:
    draws = iter([0.4, 0.6])
    driver = FakeDriver("h", Config(fake=Fake(step_failures={"ensure_disks": 0.5})), rand=lambda: next(draws))
    spec = make_spec()
    driver.ensure_base_image(spec, GO_ON)
    with pytest.raises(BuildFailed, match="ensure_disks"):
        driver.ensure_disks(spec, Cancel())
    assert driver.leftovers() == set()
    driver.ensure_disks(spec, Cancel())


def test_a_step_takes_the_time_it_is_told() -> None:
    driver = FakeDriver("h", Config(fake=Fake(step_seconds={"ensure_base_image": 0.05})))
    began = time.monotonic()
    driver.ensure_base_image(make_spec(), GO_ON)
    assert time.monotonic() - began >= 0.05


def test_a_long_step_can_be_cancelled() -> None:
    driver = FakeDriver("h", Config(fake=Fake(step_seconds={"ensure_base_image": 60.0})))
    cancel = Cancel()
    threading.Timer(0.05, cancel.set).start()
    with pytest.raises(StaleEpoch):
        driver.ensure_base_image(make_spec(), cancel)


def test_stop_ends_a_long_step() -> None:
    driver = FakeDriver("h", Config(fake=Fake(step_seconds={"destroy": 60.0})))
    threading.Timer(0.05, driver.stop).start()
    with pytest.raises(Unavailable):
        driver.destroy(str(uuid.uuid4()))


def test_guests_survive_in_a_folder(tmp_path: Path) -> None:
    runs, waits, disks_only = make_spec(), make_spec(), make_spec()
    driver = FakeDriver("h", Config(), folder=tmp_path / "h")
    build(driver, runs)
    for spec in (waits, disks_only):
        driver.ensure_base_image(spec, GO_ON)
        driver.ensure_disks(spec, Cancel())
    driver.ensure_paused(waits, [])

    after = FakeDriver("h", Config(), folder=tmp_path / "h")  # as after kill -9: nothing was closed
    assert after.guest(runs.server_id) == Guest(server_id=runs.server_id, power_state=PowerState.RUNNING)
    assert after.guest(waits.server_id) == Guest(
        server_id=waits.server_id, power_state=PowerState.PAUSED, awaits_start=True
    )
    assert after.leftovers() == {runs.server_id, waits.server_id, disks_only.server_id}
    for server_id in after.leftovers():
        after.destroy(server_id)
    assert list((tmp_path / "h").iterdir()) == []


def test_a_guest_that_stops_by_itself_is_told() -> None:
    told: list[GuestEvent] = []
    driver = FakeDriver("h", Config())
    driver.start(told.append)
    spec = make_spec()
    build(driver, spec)
    driver.guest_stops(spec.server_id)
    assert [event.power_state for event in told] == [PowerState.RUNNING, PowerState.SHUTDOWN]


def test_a_thousand_hosts_and_their_guests_are_cheap() -> None:
    tracemalloc.start()
    drivers = [FakeDriver(f"h{number}", Config()) for number in range(1000)]
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert used < 8 << 20
    specs = [make_spec() for _ in drivers]
    began = time.process_time()
    for driver, spec in zip(drivers, specs, strict=True):
        build(driver, spec)
    assert time.process_time() - began < 1.0
