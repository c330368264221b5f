"""What the services say to each other: one struct a message, by the topic that receives it.

conductor   build_instances, perform_action, delete_instance (PerformOperation), and what computes say and
            ask (every message FromHost, checked against the placement of the server)
scheduler   select_destinations, select_for_many
volume.N    perform (PerformOperation), connect: the managers of that name
compute.H   build_and_run_instance, perform_action, delete_instance, change_interfaces, change_volumes
            (Work), get_console_output, get_diagnostics, get_host_uptime, refresh_interfaces,
            volumes_changed, network_changed, compare, cache_images
"""

from __future__ import annotations

from typing import Any

import msgspec

from kilonova.domain.block_devices import AttachedVolume, BlockDevice
from kilonova.domain.bounds import AnyText, Id, Moment, Text16, Text32, Text64, Text255
from kilonova.domain.diagnostics import Diagnostics
from kilonova.domain.hosts import HostReport
from kilonova.domain.network import NetworkState, Vif
from kilonova.domain.servers import BuildSpec, ImageRef, PowerState
from kilonova.domain.volumes import Connection, Connector, CopyState, HostConnector


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all: keyword fields, so that an old receiver can ignore what a newer sender adds."""


class PerformOperation(Message, frozen=True, kw_only=True):
    operation_id: str


# --- scheduler


class SelectDestinations(Message, frozen=True, kw_only=True):
    operation_id: str
    epoch: int
    spec: BuildSpec
    exclude: list[str] = []
    """Hosts that were tried."""


class Selection(Message, frozen=True, kw_only=True):
    host: str
    alternates: list[str]
    availability_zone: str


class SelectForMany(Message, frozen=True, kw_only=True):
    asked: list[SelectDestinations]


class Selections(Message, frozen=True, kw_only=True):
    selected: list[Selection | None]
    """In the order asked. None: nothing was claimed; asked for alone, it is told why."""


# --- compute


class Work(Message, frozen=True, kw_only=True):
    """An operation handed to a host: every word that the agent says of it carries its id and epoch."""

    operation_id: str
    epoch: int
    kind: str
    server_id: str
    request_id: str
    deadline: float
    lease: float = 30.0
    """Seconds for which the host has it, from then on and from each renewal."""
    spec: BuildSpec
    vifs: list[Vif] = []
    availability_zone: str | None = None
    has_volumes: bool = False
    """Who starts the guest asks for the ways to its volumes (server_volumes)."""
    payload: dict[str, Any] = {}


class ConsoleOutput(Message, frozen=True, kw_only=True):
    server_id: str
    length: int | None = None


class ServerRef(Message, frozen=True, kw_only=True):
    server_id: str


class VolumesChanged(Message, frozen=True, kw_only=True):
    """Something that was done to a volume ended: who waits for one asks again."""


class CacheImages(Message, frozen=True, kw_only=True):
    """Images that servers will be made of on this host soon."""

    images: list[ImageRef]


class Text(Message, frozen=True, kw_only=True):
    text: str


class Diagnosed(Message, frozen=True, kw_only=True):
    diagnostics: Diagnostics


class NetworkChanged(Message, frozen=True, kw_only=True):
    """Ids of what is not as it was: the host asks for what it is now (NetworkQuery)."""

    groups: list[str] = []
    ports: list[str] = []
    routers: bool = False
    """The host's routers, or its networks' gateways (it asks for host_routers)."""
    networks: list[str] = []
    """Which other hosts these are on."""


# --- conductor, from computes


class FromHost(Message, frozen=True, kw_only=True):
    host: Text255


class StepRecord(Message, frozen=True, kw_only=True):
    """One step as it went; times are epoch seconds of the host. Told at its beginning, it is told again, as
    a whole, at its end."""

    name: Text64
    started_at: Moment
    finished_at: Moment | None = None
    result: Text16 | None = None
    message: AnyText | None = None
    details: AnyText | None = None


class Progress(FromHost, frozen=True, kw_only=True):
    """At a step's boundary: what ended, what begins. ``task_state`` is what the server shows from now."""

    operation_id: Id
    epoch: int
    steps: list[StepRecord]
    task_state: Text32 | None = None


class Activate(FromHost, frozen=True, kw_only=True):
    """The guest is there, paused: may it run?"""

    operation_id: Id
    epoch: int
    steps: list[StepRecord]


class PrepareBlockDevices(FromHost, frozen=True, kw_only=True):
    """The disks of a build, or the volume that an operation is about, for the host that asks."""

    operation_id: Id
    epoch: int
    connector: HostConnector


class BlockDevices(Message, frozen=True, kw_only=True):
    """``pending``: volumes that are still being made; then the others are not connected yet."""

    devices: list[BlockDevice] = []
    volumes: list[AttachedVolume] = []
    pending: list[str] = []


class ServerVolumes(FromHost, frozen=True, kw_only=True):
    """The ways to a server's volumes, whose guest is about to be started."""

    server_id: str
    connector: HostConnector


class Finished(FromHost, frozen=True, kw_only=True):
    """The end of work on a host. ``error`` None: it went well.

    ``retry``: another host may do better. The host has removed what it made, or will when it next
    compares itself with the records.
    """

    operation_id: Id
    epoch: int
    kind: str
    steps: list[StepRecord] = []
    error: AnyText | None = None
    details: AnyText | None = None
    retry: bool = False
    power_state: PowerState = PowerState.NOSTATE


class OperationRef(FromHost, frozen=True, kw_only=True):
    operation_id: Id
    epoch: int


class AllocateNetworks(OperationRef, frozen=True, kw_only=True):
    follows: bool = False
    """The host wants the state of its ports with them."""


class Vifs(Message, frozen=True, kw_only=True):
    vifs: list[Vif]
    state: NetworkState | None = None


class NetworkQuery(FromHost, frozen=True, kw_only=True):
    """What holds now for these ports? On which other hosts are their networks, and these ones? What is not
    bound to the host is left out of the answer."""

    ports: list[str]
    networks: list[str] = []


class ServerRecord(Message, frozen=True, kw_only=True):
    """What a guest is made of, and the NICs and volumes (id → GiB) that it should have now."""

    spec: BuildSpec
    vifs: list[Vif]
    volumes: dict[str, int] | None = None
    """None: whoever says it knows of none."""
    whole: bool = False
    """Nothing is done to the server, and it boots from its own: what its guest lacks of these is lost."""


class RenewLeases(FromHost, frozen=True, kw_only=True):
    held: dict[str, int]
    """Operation id → epoch."""


class Held(Message, frozen=True, kw_only=True):
    operation_ids: list[str]
    lease: float = 30.0
    """Seconds until they must be renewed again."""


class Report(FromHost, frozen=True, kw_only=True):
    report: HostReport
    starting: bool = False
    """The agent has just begun: whatever it owned before is free."""
    likeness: str | None = None
    """What it has, now and then, as domain.likeness tells it; empty: something waits for the records' word.
    If the records differ, the host is told to compare()."""


class Ready(FromHost, frozen=True, kw_only=True):
    """The agent listens; ``held`` are the ids of the operations that it works on already."""

    held: list[str] = []


class PowerStates(FromHost, frozen=True, kw_only=True):
    """What the guests of a host really do; server id → state."""

    states: dict[str, PowerState]
    observed_at: float
    """When that was seen, by the clock of the host."""


class HostServers(Message, frozen=True, kw_only=True):
    """What the records say is on a host: server id → what the agent must know to compare."""

    servers: dict[str, PlacedServer]


class PlacedServer(Message, frozen=True, kw_only=True):
    vm_state: str
    task_state: str | None
    vifs: list[Vif]
    busy: bool
    """An operation is open: leave it to that."""
    volumes: list[str] | None = None
    """Ids of those that the guest may have; None: not said."""


class ServerQuery(FromHost, frozen=True, kw_only=True):
    server_id: str


class SetPassword(ServerQuery, frozen=True, kw_only=True):
    password: str


# --- volume managers


class ConnectVolume(Message, frozen=True, kw_only=True):
    """To ``volume.<name>``: the way to a volume for a host."""

    volume_id: str
    host: str
    """The volume's: ``name@backend#pool``."""
    connector: Connector


class Connected(Message, frozen=True, kw_only=True):
    connection: Connection


class VolumeCopy(Message, frozen=True, kw_only=True):
    """Of a volume that a guest of this host writes to, for a snapshot."""

    server_id: str
    volume_id: str
    snapshot_id: str


class CopyVolume(VolumeCopy, frozen=True, kw_only=True):
    """Go on with it for some seconds, and say how far it is; ``begin``: from the start."""

    to: Connection
    begin: bool = False
    in_order: bool = False
    """BuildFailed if the guest's file systems cannot be held still at its end."""


class HoldStill(VolumeCopy, frozen=True, kw_only=True):
    """Hold the guest's file systems still for a snapshot that the volume's store takes, until ``go_on``."""

    in_order: bool = False
    """BuildFailed if that cannot be."""


class HeldStill(Message, frozen=True, kw_only=True):
    """``hold_still``: whether there is a guest that runs and is held. ``go_on``: whether it was until now."""

    held: bool


class Copied(Message, frozen=True, kw_only=True):
    state: CopyState


class VolumeEnded(Message, frozen=True, kw_only=True):
    """To the conductor: an operation of a volume (or of a snapshot) ended, well or badly."""

    id: str
    kind: str
    """Of the operation: ``volume_create``, ``volume_extend``, ``snapshot_create``, …"""
    status: str
    """That the volume or the snapshot has now."""


class Nothing(Message, frozen=True, kw_only=True):
    """The answer of who has nothing to say."""
