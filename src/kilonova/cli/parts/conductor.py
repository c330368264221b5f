"""The conductor and the scheduler of this process."""

from __future__ import annotations

import uuid
from contextlib import ExitStack

from kilonova.bus.base import Bus, Handler
from kilonova.conductor import service
from kilonova.conductor.gather import Reports
from kilonova.conductor.hearing import Hearing
from kilonova.conductor.parts import Parts
from kilonova.config import Config
from kilonova.engine.faults import FaultPoints
from kilonova.network.builtin.announcer import Announcer
from kilonova.network.builtin.service import BuiltinNetwork
from kilonova.scheduler.service import Scheduler
from kilonova.store.database import Database
from kilonova.volume.builtin.service import BuiltinVolumes

_THREADS = 4


def start_scheduler(config: Config, db: Database, bus: Bus, faults: FaultPoints, closing: ExitStack) -> None:
    closing.callback(bus.serve("scheduler", Scheduler(db, config, faults).handlers()).close)


def start_conductor(config: Config, db: Database, bus: Bus, faults: FaultPoints, closing: ExitStack) -> Parts:
    """It answers computes and takes operations; sweep() makes it look for those that nobody works on."""
    announcer = Announcer(db, bus, faults.reach)
    closing.callback(announcer.close)
    parts = Parts(
        name=f"conductor.{uuid.uuid4()}",
        config=config,
        db=db,
        bus=bus,
        network=BuiltinNetwork(db, config, announcer.tell),
        volumes=BuiltinVolumes(db, bus, config, faults.reach),
        faults=faults,
        hearing=Hearing(config, bus),
    )
    gathered = Reports(parts)
    closing.callback(gathered.close)
    closing.callback(bus.serve("conductor", service.handlers(parts, gathered), _THREADS).close)
    told: dict[str, Handler] = {"report": gathered.report, "power_states": gathered.power_states}
    collected = bus.collect("conductor", told, gathered.write)
    if collected is not None:
        closing.callback(collected.close)
    return parts


def sweep(parts: Parts, closing: ExitStack) -> None:
    closing.callback(service.Sweeper(parts).close)
