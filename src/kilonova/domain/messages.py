"""What the services say to each other: one struct a message, by the topic that receives it.

conductor   build_instances, perform_action, delete_instance (PerformOperation), and what computes ask:
            begin_step, … (the agent's messages, checked against the placement of the server)
scheduler   select_destinations
compute.H   build_and_run_instance, perform_action, delete_instance (Work), get_console_output
"""

from __future__ import annotations

from typing import Any

import msgspec

from kilonova.domain.hosts import HostReport
from kilonova.domain.network import Vif
from kilonova.domain.servers import BuildSpec, PowerState


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all: keyword fields, so that an old receiver can ignore what a newer sender adds."""


class PerformOperation(Message):
    operation_id: str


# --- scheduler


class SelectDestinations(Message):
    spec: BuildSpec
    exclude: list[str] = []
    """Hosts that were tried."""


class Selection(Message):
    host: str
    alternates: list[str]
    availability_zone: str


# --- compute


class Work(Message):
    """An operation handed to a host. ``token`` of the work is (operation_id, epoch): every word that the
    agent says of it carries both."""

    operation_id: str
    epoch: int
    kind: str
    server_id: str
    request_id: str
    deadline: float
    spec: BuildSpec
    vifs: list[Vif] = []
    payload: dict[str, Any] = {}
    committed: bool = False
    """A build whose server is ACTIVE already: its guest may run."""


class ConsoleOutput(Message):
    server_id: str
    length: int | None = None


class Text(Message):
    text: str


# --- conductor, from computes


class FromHost(Message):
    host: str


class StepRecord(Message):
    """One step as it went; times are epoch seconds of the host."""

    name: str
    started_at: float
    finished_at: float | None = None
    result: str | None = None
    message: str | None = None
    details: str | None = None


class Progress(FromHost):
    """At a step's boundary: what ended, what begins. ``task_state`` is what the server shows from now."""

    operation_id: str
    epoch: int
    steps: list[StepRecord]
    task_state: str | None = None


class Finished(FromHost):
    """The end of work on a host. ``error`` None: it went well.

    ``retry``: another host may do better. ``undone``: nothing is left of it on this host.
    """

    operation_id: str
    epoch: int
    steps: list[StepRecord] = []
    error: str | None = None
    retry: bool = False
    undone: bool = True
    power_state: PowerState = PowerState.NOSTATE


class OperationRef(FromHost):
    operation_id: str
    epoch: int


class Vifs(Message):
    vifs: list[Vif]


class RenewLeases(FromHost):
    held: dict[str, int]
    """Operation id → epoch."""


class Held(Message):
    operation_ids: list[str]


class Report(FromHost):
    report: HostReport
    starting: bool = False
    """The agent has just begun: whatever it owned before is free."""


class PowerStates(FromHost):
    """What the guests of a host really do; server id → state."""

    states: dict[str, PowerState]


class HostServers(Message):
    """What the records say is on a host: server id → what the agent must know to compare."""

    servers: dict[str, PlacedServer]


class PlacedServer(Message):
    vm_state: str
    task_state: str | None
    vifs: list[Vif]
    busy: bool
    """An operation is open: leave it to that."""


class MetadataQuery(FromHost):
    network_id: str
    address: str


class Nothing(Message):
    """The answer of who has nothing to say."""
