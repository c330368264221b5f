"""The bus: in this process, or over a broker if one is configured."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack

from kilonova.bus.base import Bus
from kilonova.bus.local import LocalBus
from kilonova.cli.parts.stop import go_on
from kilonova.config import Config

Say = Callable[[str], None]
_LOOK = 0.5


def open_bus(
    config: Config, pools: Mapping[str, int], say: Say, stop: threading.Event, closing: ExitStack
) -> Bus:
    """The bus, when it can be used: over a broker that may take as long as it takes to be there.

    BadRequest: ``[bus] url`` is no broker's address. Stopped: ``stop`` was set while there was none.
    """
    if not config.bus.url:
        local = LocalBus(pools)
        closing.callback(local.close)
        return local
    from kilonova.bus.rabbit import RabbitBus

    bus = RabbitBus(config.bus, pools)
    closing.callback(bus.close)
    said = None
    while not bus.connected(_LOOK):
        go_on(stop)
        if said != bus.problem:
            said = bus.problem
            say(f"waiting for the message broker: {said}")
    return bus
