"""The bus: in this process, or over a broker if one is configured."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial

from kilonova.bus.base import Bus
from kilonova.bus.local import LocalBus
from kilonova.cli.parts.stop import go_on
from kilonova.config import Config
from kilonova.domain.errors import BadRequest, Unavailable
from kilonova.monitoring.watch import Watch

Say = Callable[[str], None]
_LOOK = 0.5


def make_bus(config: Config, pools: Mapping[str, int], watch: Watch, closing: ExitStack) -> Bus:
    """The bus; over a broker it connects by itself, when it can.

    BadRequest: ``[bus] url`` is no broker's address.
    """
    if not config.bus.url:
        local = LocalBus(pools)
        closing.callback(local.close)
        watch.health.watch("bus", lambda: None)  # it is this process
        return local
    from kilonova.bus.rabbit import RabbitBus

    bus = RabbitBus(config.bus, pools)
    closing.callback(bus.close)
    watch.health.watch("bus", partial(_check, bus))
    return bus


def open_bus(
    config: Config,
    pools: Mapping[str, int],
    watch: Watch,
    say: Say,
    stop: threading.Event,
    closing: ExitStack,
) -> Bus:
    """The bus, when it can be used: over a broker that may take as long as it takes to be there.

    BadRequest: ``[bus] url`` is no broker's address, or the broker turns us away. Stopped: ``stop`` was set
    while there was none.
    """
    bus = make_bus(config, pools, watch, closing)
    said = None
    while not bus.connected(_LOOK):
        go_on(stop)
        if bus.turned_away:
            raise BadRequest(f"the message broker refuses us: {bus.problem}")
        if said != bus.problem:
            said = bus.problem
            say(f"waiting for the message broker: {said}")
    return bus


def _check(bus: Bus) -> None:
    if not bus.connected(0):
        raise Unavailable(bus.problem or "the message broker is away")
