"""What of a real build is the network's: the journal's own steps, as `kilonova trace` shows them."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from tests.running import Up, until

from bench.cloud import FLAVOR, cloud, load
from bench.figure import Figure
from bench.load import p50

_GUEST = Path("build/guest.qcow2")
_ROUNDS = 9
_STEPS = ("allocate_networks", "plug_vifs")


def part_of_builds() -> list[Figure]:
    """Of the first guest of a network on the host, and of others there."""
    with cloud("libvirt", 1) as up:
        image, network = up.image(_GUEST.read_bytes(), "qcow2"), up.network()
        _, first = _build(up, image, network)  # which stays: the others come to a network that is there
        others = []
        for _ in range(_ROUNDS):
            server_id, taken = _build(up, image, network)
            others.append(taken)
            up.ask("DELETE", f"/compute/v2.1/servers/{server_id}")
            until(lambda one=server_id: up.server(one) is None, 60, "the server to go")  # type: ignore[misc]
    return [
        Figure("network part of a build, p50: its two steps", p50(others), "ms", at_most=150),
        Figure("… of the first guest of a network on its host", first * 1000, "ms"),
    ]


def _build(up: Up, image: str, network: str) -> tuple[str, float]:
    """The server, and the seconds that both steps took."""
    order = {"image": image, "flavor": FLAVOR, "count": 1, "networks": [{"uuid": network}]}
    (server_id,) = load(up, "sequential", **order)["ids"]
    path = f"/compute/v2.1/servers/{server_id}/os-instance-actions"
    (created,) = up.ask("GET", path)[1]["instanceActions"]
    events = up.ask("GET", f"{path}/{created['request_id']}")[1]["instanceAction"]["events"]
    steps = [event for event in events if event["event"] in _STEPS]
    assert len(steps) == len(_STEPS), events
    return server_id, sum(_time(step["finish_time"]) - _time(step["start_time"]) for step in steps)


def _time(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
