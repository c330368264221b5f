"""What a host keeps of the tunnels that it was told of."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import pytest

from kilonova.config import Network
from kilonova.domain.network import NetworkTunnel
from kilonova.network.host.tunnels import Tunnels, told

GOOD = NetworkTunnel(segmentation_id=5, peers=["192.0.2.2"])


@pytest.mark.parametrize(
    ("segmentation_id", "peers"), [(0, []), (1 << 24, []), (6, ["192.0.2.2", "x"]), (6, ["2001:db8::1"])]
)
def test_one_that_cannot_be_takes_nothing_from_the_others(
    tmp_path: Path, segmentation_id: int, peers: list[str]
) -> None:
    nothing = cast(Any, None)
    tunnels = Tunnels(Network(tunnel_address="192.0.2.1"), tmp_path, nothing)
    good, bad = str(uuid4()), str(uuid4())
    wrong = NetworkTunnel(segmentation_id=segmentation_id, peers=peers)
    assert tunnels.learn({bad: wrong, good: GOOD, "../x": GOOD}, 1.0, {good, bad}) == {good}
    assert told(tmp_path) == {good: GOOD}


def test_what_was_told_before_is_no_news(tmp_path: Path) -> None:
    """Each minute all of it is told again; only what differs, or is not yet done, is work."""
    now = time.monotonic()
    tunnels = Tunnels(Network(tunnel_address="192.0.2.1"), tmp_path, cast(Any, None))
    done, here, elsewhere = (str(uuid4()) for _ in range(3))
    all_ = dict.fromkeys((done, here, elsewhere), GOOD)
    assert tunnels.learn(all_, now + 1.0, {done, here}) == set(all_)
    tunnels._there.add(done)  # as ensure() does
    assert tunnels.learn(all_, now + 2.0, {done, here}) == {here}
    alone = NetworkTunnel(segmentation_id=5, peers=[])
    assert tunnels.learn(all_ | {done: alone}, now + 3.0, {done}) == {done}
    assert tunnels.learn(all_ | {done: alone}, now + 4.0, {done}) == {done}, "its device is still there"
    assert tunnels.learn({done: GOOD}, now + 3.5, {done}) == set()
