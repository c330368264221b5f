"""The servers API with a conductor that only writes down what it is told, images and networks from a dict."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from sqlalchemy import update

from kilonova.api.compute.state import ComputeAPI
from kilonova.bus.local import LocalBus
from kilonova.config import Config
from kilonova.domain.context import RequestContext
from kilonova.domain.errors import BadRequest, Conflict, NotFound
from kilonova.domain.messages import ConsoleOutput, PerformOperation, Text
from kilonova.domain.network import Vif, VifAddress, VifSubnet
from kilonova.domain.servers import ImageRef, PowerState, RequestedNetwork, VmState
from kilonova.store import operations, servers
from kilonova.store.database import Database
from kilonova.store.schema.operations import operations as operations_table
from kilonova.volume.builtin.service import BuiltinVolumes

IMAGE = "11111111-2222-3333-4444-555555555555"
BIG_IMAGE = "11111111-2222-3333-4444-666666666666"
INACTIVE_IMAGE = "11111111-2222-3333-4444-777777777777"
NETWORK = "99999999-2222-3333-4444-555555555555"
HOST = "node-1"

Create = Callable[..., str]


class Images:
    """images.ref() of two images that boot and one that does not yet."""

    def __init__(self) -> None:
        self.known = {
            IMAGE: ImageRef(
                id=IMAGE, name="tiny", disk_format="qcow2", size=1 << 20, properties={"hw_disk_bus": "virtio"}
            ),
            BIG_IMAGE: ImageRef(
                id=BIG_IMAGE, disk_format="qcow2", size=1 << 20, virtual_size=30 << 30, min_ram=256
            ),
        }

    def ref(self, _context: RequestContext, image_id: str) -> ImageRef:
        if image_id == INACTIVE_IMAGE:
            raise BadRequest(f"Image {image_id} is not active.")
        if image_id not in self.known:
            raise NotFound(f"No image found with ID {image_id}")
        return self.known[image_id]


@dataclass
class Networks:
    """The parts of the service that the API uses; ``networks`` are the project's."""

    networks: list[str] = field(default_factory=lambda: [NETWORK])

    def validate(
        self, _context: RequestContext, requested: list[RequestedNetwork], _count: int
    ) -> list[RequestedNetwork]:
        for item in requested:
            if item.network_id and item.network_id not in self.networks:
                raise NotFound(f"Network {item.network_id} could not be found.")
        return requested

    def auto(self, _context: RequestContext) -> list[RequestedNetwork]:
        if not self.networks:
            raise BadRequest("Unable to automatically allocate a network")
        if len(self.networks) > 1:
            raise Conflict("Multiple possible networks found, use a Network ID to be more specific.")
        return [RequestedNetwork(network_id=self.networks[0])]

    def security_groups(self, _context: RequestContext, names: Sequence[str]) -> list[str]:
        """There is only the default one."""
        if unknown := [name for name in names if name != "default"]:
            raise BadRequest(f"Security group {unknown[0]} not found.")
        return list(names)

    def security_group_names(self, _server_ids: Sequence[str]) -> dict[str, list[str]]:
        return {}


@dataclass
class Conductor:
    """What it was told: (method, operation id)."""

    told: list[tuple[str, str]] = field(default_factory=list)

    def handlers(self) -> dict[str, Callable[[PerformOperation], None]]:
        def of(method: str) -> Callable[[PerformOperation], None]:
            def note(message: PerformOperation) -> None:
                self.told.append((method, message.operation_id))

            return note

        return {name: of(name) for name in ("build_instances", "perform_action", "delete_instance")}


@pytest.fixture
def conductor() -> Conductor:
    return Conductor()


@pytest.fixture
def networks() -> Networks:
    return Networks()


@pytest.fixture
def bus(conductor: Conductor) -> Iterator[LocalBus]:
    bus = LocalBus()
    bus.serve("conductor", conductor.handlers())
    yield bus
    bus.close()


@pytest.fixture
def console(bus: LocalBus) -> list[ConsoleOutput]:
    """The host answers for consoles; what it was asked."""
    asked: list[ConsoleOutput] = []

    def get_console_output(message: ConsoleOutput) -> Text:
        asked.append(message)
        return Text(text="login: \x1b[0m\r\n")

    bus.serve(f"compute.{HOST}", {"get_console_output": get_console_output})
    return asked


@pytest.fixture
def state(database: Database, config: Config, bus: LocalBus, networks: Networks) -> ComputeAPI:
    return ComputeAPI(
        config=config,
        db=database,
        bus=bus,
        network=cast(Any, networks),
        images=cast(Any, Images()),
        volumes=BuiltinVolumes(database, bus, config),
    )


@pytest.fixture
def request_body() -> Callable[..., dict[str, Any]]:
    """A request that works in every microversion, with changes."""

    def make(**changes: Any) -> dict[str, Any]:
        server = {"name": "vm", "imageRef": IMAGE, "flavorRef": "42", "networks": [{"uuid": NETWORK}]}
        return {"server": server | changes}

    return make


@pytest.fixture
def create(member: Any, request_body: Callable[..., dict[str, Any]]) -> Create:
    """Make a server as ``member``; its id."""

    def make(caller: Any = None, version: str = "2.96", **changes: Any) -> str:
        answer = (caller or member).post("/servers", request_body(**changes), version=version)
        assert answer.status_code == 202, answer.text
        return str(answer.json["server"]["id"])

    return make


def vif(network: str = "private", ip: str = "10.0.0.5") -> Vif:
    subnet = VifSubnet(id=str(uuid.uuid4()), cidr="10.0.0.0/24")
    return Vif(
        port_id=str(uuid.uuid4()),
        network_id=NETWORK,
        network_name=network,
        mac="fa:16:3e:00:00:01",
        addresses=[VifAddress(ip=ip, subnet=subnet)],
    )


@pytest.fixture
def settle(database: Database, add_host: Callable[[str], str]) -> Callable[..., None]:
    """What conductor and host would do: the server is ``vm_state`` on HOST, nothing is open."""
    hosts: set[str] = set()

    def place(server_id: str, vm_state: VmState = VmState.ACTIVE, ip: str = "10.0.0.5", **more: Any) -> None:
        host = more.pop("host", HOST)
        if host and host not in hosts:
            hosts.add(host)
            add_host(host)
        with database.write() as conn:
            conn.execute(
                update(operations_table)
                .where(operations_table.c.server_id == server_id, operations_table.c.state == operations.OPEN)
                .values(state=operations.DONE)
            )
            values = {
                "vm_state": vm_state,
                "task_state": None,
                "power_state": PowerState.RUNNING,
                "host": host,
                "availability_zone": "nova",
                "launched_at": 1_800_000_000.5,
                "vifs": [vif(ip=ip)],
            }
            assert servers.change(conn, server_id, **(values | more))

    return place


@pytest.fixture
def active(create: Create, settle: Callable[..., None]) -> Create:
    """Make a server and bring it to ACTIVE; its id."""

    def make(**changes: Any) -> str:
        server_id = create(**changes)
        settle(server_id)
        return server_id

    return make
