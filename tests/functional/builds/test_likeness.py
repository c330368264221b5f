"""A host that is as the records have it is left alone; one that is not is told to look at each server."""

from __future__ import annotations

from typing import Any

import pytest
from tests.functional.builds.cloud import PATIENCE, Cloud
from tests.running import until

from kilonova.compute.reconcile import likeness
from kilonova.conductor import proxy
from kilonova.conductor.gather import Reports
from kilonova.domain.errors import Unavailable
from kilonova.domain.messages import PowerStates, Report


class Told:
    """What the agents of a cloud tell, and what conductors send them, by method."""

    def __init__(self, cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
        self.said: list[tuple[str, Any]] = []
        self.sent: list[tuple[str, str]] = []
        cast = cloud.bus.cast
        monkeypatch.setattr(cloud.bus, "tell", lambda _topic, method, word: self.said.append((method, word)))

        def send(topic: str, method: str, request: Any) -> None:
            self.sent.append((topic, method))
            cast(topic, method, request)

        monkeypatch.setattr(cloud.bus, "cast", send)
        self._cloud = cloud

    def reports(self) -> list[Report]:
        return [word for method, word in self.said if method == "report"]

    def compared(self, *reports: Report) -> list[str]:
        """The hosts that a conductor which hears these reports tells to compare."""
        self.sent.clear()
        gathered = Reports(self._cloud.conductor)
        for report in reports:
            gathered.report(report)
        gathered.close()
        return [topic for topic, method in self.sent if method == "compare"]


@pytest.fixture
def told(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> Told:
    return Told(cloud, monkeypatch)


def report_of(cloud: Cloud, name: str = "h1") -> Report:
    host = cloud.hosts[name]
    return Report(host=name, report=host.driver.report(), likeness=likeness(host.agent._parts))


def test_a_host_that_is_as_the_records_have_it_is_left_alone(cloud: Cloud, told: Told) -> None:
    """Whatever its servers do; two of them, so that no order counts."""
    assert told.compared(report_of(cloud)) == []
    network = cloud.make_network()
    one, _two = cloud.active(network), cloud.active(network)
    assert told.compared(report_of(cloud)) == []
    for action, status in (("pause", "PAUSED"), ("unpause", "ACTIVE"), ("os-stop", "SHUTOFF")):
        assert cloud.act(one, action) == 202
        assert cloud.settled(one)["status"] == status
        assert told.compared(report_of(cloud)) == [], action
    cloud.delete(one)
    cloud.gone(one)
    assert told.compared(report_of(cloud)) == []


def test_what_no_record_knows_is_looked_at_and_removed(cloud: Cloud, told: Told) -> None:
    server_id = cloud.active(cloud.make_network())
    cloud.sql("UPDATE servers SET host = 'h2' WHERE id = ?", server_id)
    assert told.compared(report_of(cloud)) == ["compute.h1"]
    host = cloud.hosts["h1"]
    until(lambda: host.repairs._once, PATIENCE, "the word to come")
    (compare,) = host.repairs._once
    compare()
    assert host.is_empty()
    assert told.compared(report_of(cloud)) == []


@pytest.mark.parametrize("change", ["power_state = 4", "vifs = '[]'", "host = NULL"])
def test_every_difference_that_a_comparison_would_see_is_one(cloud: Cloud, told: Told, change: str) -> None:
    server_id = cloud.active(cloud.make_network())
    report = report_of(cloud)
    assert told.compared(report) == []
    cloud.sql(f"UPDATE servers SET {change} WHERE id = ?", server_id)
    assert told.compared(report) == ["compute.h1"]


def test_a_guest_that_waits_for_its_start_is_looked_at(cloud: Cloud, told: Told) -> None:
    server_id = cloud.active()
    driver = cloud.hosts["h1"].driver
    driver._servers[server_id].awaits_start = True
    assert report_of(cloud).likeness == ""
    assert told.compared(report_of(cloud)) == ["compute.h1"]


def test_power_states_that_are_told_are_written_where_they_differ(
    cloud: Cloud, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has just changed is left to the next report: what was told may be older."""
    one, two = cloud.active(), cloud.active()
    host = cloud.hosts["h1"]
    written: list[PowerStates] = []
    monkeypatch.setattr(proxy, "power_states", lambda _parts, message: written.append(message))

    def follow() -> None:
        host.reports.tick()
        ((_, message),) = [word for word in told.said if word[0] == "power_states"]
        told.said.clear()
        gathered = Reports(cloud.conductor)
        gathered.power_states(message)
        gathered.close()

    cloud.bus.lost["power_states"] = 1
    host.driver.guest_stops(two)
    follow()
    assert written == []
    cloud.sql("UPDATE servers SET updated_at = updated_at - 60")
    follow()
    (message,) = written
    assert (message.host, message.states) == ("h1", {two: 4})
    monkeypatch.undo()
    proxy.power_states(cloud.conductor, message)
    assert cloud.server(two)["status"] == "SHUTOFF"
    assert cloud.server(one)["status"] == "ACTIVE"


def test_now_and_then_a_report_says_what_is_there(
    cloud: Cloud, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a hypervisor that does not answer keeps no report back."""
    host = cloud.hosts["h1"]
    host.reports.tick()
    host.repairs.tick()
    host.reports.tick()
    host.reports.tick()
    assert [one.likeness is None for one in told.reports()] == [True, False, True]

    def away() -> Any:
        raise Unavailable("the hypervisor does not answer")

    host.repairs.tick()
    with monkeypatch.context() as patched:
        patched.setattr(host.driver, "leftovers", away)
        host.reports.tick()
    host.reports.tick()
    assert [one.likeness is None for one in told.reports()[3:]] == [True, False]
