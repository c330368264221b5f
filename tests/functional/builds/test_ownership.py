"""A conductor that sleeps past its lease, or a database that crashes: nobody acts on what is not so now."""

from __future__ import annotations

from typing import Any

import pytest
from tests.functional.builds.cloud import PATIENCE, Cloud, Died
from tests.running import until

from kilonova.conductor import build, delete, proxy
from kilonova.domain.errors import StaleEpoch
from kilonova.domain.messages import Activate, OperationRef
from kilonova.engine import lease


def asleep_at(point: str, cloud: Cloud, server_id: str, patch: pytest.MonkeyPatch) -> None:
    """Who comes to ``point`` sleeps there past the lease, until another has built the server."""
    reach, deadline = cloud.faults.reach, cloud.open_operation(server_id).deadline

    def slept(reached: str) -> None:
        reach(reached)
        if reached == point:
            patch.setattr(cloud.faults, "reach", reach)
            cloud.sql("UPDATE operations SET deadline = ? WHERE state = 'open'", deadline)
            cloud.leases_run_out()
            cloud.sweep()
            assert cloud.settled(server_id)["status"] == "ACTIVE"

    patch.setattr(cloud.faults, "reach", slept)


def ports(cloud: Cloud, server_id: str) -> int:
    return len(cloud.sql("SELECT id FROM ports WHERE device_id = ?", server_id))


def test_a_conductor_that_wakes_after_its_lease_leaves_the_ports_of_a_running_server(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.bus.lost["build_instances"] = 1
    server_id = cloud.create(cloud.make_network())
    work = lease.take(cloud.db, cloud.open_operation(server_id).id, "conductor.2", 30.0)
    assert work is not None
    asleep_at("build.deallocate_networks.before", cloud, server_id, monkeypatch)
    with pytest.raises(StaleEpoch):
        build.fail(cloud.another_conductor("conductor.2"), work, "no host is left", None)
    assert cloud.server(server_id)["status"] == "ACTIVE"
    assert ports(cloud, server_id) == 1
    assert cloud.unexplained() == []


def test_a_sweeper_that_wakes_after_its_lease_leaves_the_ports_of_a_running_server(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was overdue is brought to a good end by another, who is quicker than his own sweeper."""
    cloud.bus.lost["build_instances"] = 1
    server_id = cloud.create(cloud.make_network())
    asleep_at("build.overdue.after", cloud, server_id, monkeypatch)
    cloud.deadlines_pass()
    cloud.sweep()
    assert cloud.server(server_id)["status"] == "ACTIVE"
    assert ports(cloud, server_id) == 1


def test_ports_are_freed_only_by_who_has_the_delete(cloud: Cloud) -> None:
    """Who slept until the delete had failed, overdue, leaves the server its ports."""
    server_id = cloud.active(cloud.make_network())
    cloud.hosts["h1"].goes_silent()
    cloud.delete(server_id)
    until(lambda: cloud.open_operation(server_id).owner == "compute.h1", PATIENCE, "the hand-over")
    work = cloud.open_operation(server_id)
    cloud.deadlines_pass()
    cloud.sweep()
    assert cloud.server(server_id)["status"] == "ERROR"
    with pytest.raises(StaleEpoch):
        delete.finish(cloud.conductor, work)
    assert ports(cloud, server_id) == 1


def test_ports_and_the_record_of_them_are_one_transaction(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: Any) -> bool:
        raise Died("between the two")

    cloud.bus.lost["build_and_run_instance"] = 1
    server_id = cloud.create(cloud.make_network())
    until(lambda: cloud.open_operation(server_id).host, PATIENCE, "a host")
    work = cloud.open_operation(server_id)
    asked = OperationRef(host="h1", operation_id=work.id, epoch=work.epoch)
    monkeypatch.setattr(proxy.servers, "set_vifs", dies)
    with pytest.raises(Died):
        cloud.conductor_hears("allocate_networks", asked)
    assert ports(cloud, server_id) == 0


@pytest.mark.parametrize("database_kind", ["sqlite", "postgresql"], indirect=True)
def test_a_guest_runs_only_on_a_word_that_its_database_cannot_forget(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, database_kind: str
) -> None:
    """PostgreSQL forgets in a crash what it did not sync, and guests run on; SQLite cannot crash alone."""
    asked = []
    write = cloud.db.write

    def watched(durable: bool = False) -> Any:
        asked.append(durable)
        return write(durable)

    cloud.bus.lost["build_and_run_instance"] = 1
    server_id = cloud.create()
    until(lambda: cloud.open_operation(server_id).host, PATIENCE, "a host")
    work = cloud.open_operation(server_id)
    word = Activate(host="h1", operation_id=work.id, epoch=work.epoch, steps=[])
    monkeypatch.setattr(cloud.db, "write", watched)
    proxy.activate(cloud.conductor, word)
    assert asked == [database_kind == "postgresql"]
