"""What a host keeps of the tunnels that it was told of."""

from __future__ import annotations

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
