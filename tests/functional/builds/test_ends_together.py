"""Ends of builds that are told together: what that costs, and in which order rows are locked."""

from __future__ import annotations

from typing import Any

from tests.functional.builds.cloud import PATIENCE, Cloud
from tests.functional.builds.conftest import MakeCloud
from tests.running import until
from tests.statements import sent

from kilonova.conductor import words
from kilonova.domain.messages import Finished, Nothing, Work
from kilonova.domain.servers import PowerState


def ended(cloud: Cloud, count: int) -> list[Finished]:
    """Servers whose ports, as the records have it, nobody plugged yet; and their hosts' last words."""
    works: list[tuple[str, Work]] = []
    send = cloud.bus.cast

    def note(topic: str, method: str, request: Any) -> None:
        if isinstance(request, Work):
            works.append((topic.rpartition(".")[2], request))
        send(topic, method, request)

    cloud.bus.cast = note  # type: ignore[method-assign]
    nets = [cloud.make_network(), cloud.make_network()]
    for number in range(count):
        cloud.active(nets[number % 2])
    quiet = "SELECT count(*) FROM servers WHERE power_state = 1"
    until(lambda: cloud.sql(quiet) == [(count,)], PATIENCE, "the ends of the builds")
    cloud.sql("UPDATE ports SET status = 'DOWN'")
    return [
        Finished(
            host=host,
            operation_id=work.operation_id,
            epoch=work.epoch,
            kind="build",
            power_state=PowerState.RUNNING,
        )
        for host, work in works
    ]


def test_the_ports_of_many_servers_are_as_many_statements(make_cloud: MakeCloud) -> None:
    cloud = make_cloud(hosts=3)
    said = ended(cloud, 8)

    def statements(told: list[Finished]) -> int:
        with sent(cloud.db) as statements:
            assert words.finished(cloud.conductor, told) == [Nothing()] * len(told)
            return len([one for one in statements if "ports" in one])

    assert statements(said[:2]) == statements(said[2:]) > 0
    assert cloud.sql("SELECT DISTINCT status FROM ports") == [("ACTIVE",)]


def test_ports_are_locked_before_servers(make_cloud: MakeCloud) -> None:
    """As whoever deletes a server does (store/database.py)."""
    cloud = make_cloud(hosts=3)
    said = ended(cloud, 2)

    def order(one_by_one: bool) -> list[str]:
        cloud.sql("UPDATE ports SET status = 'DOWN'")
        with sent(cloud.db) as statements:
            if one_by_one:
                cloud.conductor_hears("finished", said[0])
            else:
                words.finished(cloud.conductor, said)
            return [one.split()[1] for one in statements if one.startswith("UPDATE")]

    for one_by_one in (True, False):
        assert order(one_by_one) == ["ports", "ports", "servers"]
