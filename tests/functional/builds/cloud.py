"""A whole cloud in the test's own process: the APIs, a conductor, a scheduler, agents with fake guests.

All parts are the real ones over a real SQLite. What a test takes in its hand: the post (a bus that loses,
doubles and refuses), each host's driver (gates at which a step waits, failures by step), and time: nothing
ticks and nothing sweeps unless the test says so.
"""

from __future__ import annotations

import io
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

import falcon.testing
import msgspec
from msgspec import structs
from tests.running import CHECKS, until
from tests.volume_store import MemoryBackend, ShortUploads

from kilonova.api import compute as compute_api
from kilonova.api import image as image_api
from kilonova.api import network as network_api
from kilonova.api import volume as volume_api
from kilonova.api.compute.state import ComputeAPI
from kilonova.api.http import application
from kilonova.api.volume.state import VolumeAPI
from kilonova.bus.local import LocalBus
from kilonova.cli.parts import agents
from kilonova.compute.agent import Agent
from kilonova.compute.parts import Parts as ComputeParts
from kilonova.conductor import service, sweeper
from kilonova.conductor.hearing import Hearing
from kilonova.conductor.parts import Parts as ConductorParts
from kilonova.config import Config, Faults
from kilonova.domain.context import RequestContext
from kilonova.domain.errors import BadRequest, KilonovaError, NotFound, Unavailable
from kilonova.domain.hosts import builds_topic, topic
from kilonova.domain.identity import Domain, Project
from kilonova.domain.messages import VolumeEnded
from kilonova.domain.servers import ImageLocation, ImageRef
from kilonova.engine.faults import FaultPoints
from kilonova.engine.interfaces import look_again
from kilonova.engine.ticker import Ticker
from kilonova.image.neighbour import Neighbour
from kilonova.image.service import Images
from kilonova.network.builtin.changes import Change
from kilonova.network.builtin.service import BuiltinNetwork
from kilonova.network.host import MemoryHost
from kilonova.scheduler.service import Scheduler
from kilonova.store import domains, flavors, operations, projects, volume_types
from kilonova.store.database import Database
from kilonova.virt.fake import FakeDriver
from kilonova.volume.builtin.service import BuiltinVolumes
from kilonova.volume_manager.parts import Parts as ManagerParts
from kilonova.volume_manager.parts import Place
from kilonova.volume_manager.service import Manager

PROJECT = "a" * 32
IMAGE = "11111111-2222-3333-4444-555555555555"
_CALLERS = {
    "member": RequestContext(
        request_id="", user_id="e" * 32, project_id=PROJECT, roles=frozenset({"member", "reader"})
    ),
    "admin": RequestContext(
        request_id="", user_id="f" * 32, project_id=PROJECT, roles=frozenset({"admin", "member", "reader"})
    ),
}
PATIENCE = 60.0
"""Seconds until a test that waits has failed."""


class Gate:
    """A step waits here until the test opens it."""

    def __init__(self) -> None:
        self._reached = threading.Event()
        self._open = threading.Event()

    def wait_here(self) -> None:
        self._reached.set()
        assert self._open.wait(PATIENCE), "nobody opened the gate"

    def wait_until_reached(self) -> None:
        assert self._reached.wait(PATIENCE), "nobody came to the gate"

    def open(self) -> None:
        self._open.set()


class Driver(FakeDriver):
    """The fake driver; every step can be counted, held up and made to fail, by the method's name."""

    def __init__(self, host: str, config: Config) -> None:
        super().__init__(host, config)
        self.steps: list[str] = []
        self.gates: dict[str, Gate] = {}
        self.failures: dict[str, list[Exception]] = {}

    def gate(self, step: str) -> Gate:
        return self.gates.setdefault(step, Gate())

    def _step(self, name: str, cancel: threading.Event | None = None) -> None:
        self.steps.append(name)
        if name in self.gates:
            self.gates[name].wait_here()
        if self.failures.get(name):
            raise self.failures[name].pop(0)
        super()._step(name, cancel)


class Died(BaseException):
    """A conductor that dies at a fault point: nothing of ours may catch this."""


class Points(FaultPoints):
    """Fault points at which this process goes on, and only the thread that comes there dies."""

    def __init__(self) -> None:
        super().__init__(Faults())
        self.deadly = ""
        self.died = threading.Event()

    def reach(self, point: str) -> None:
        if point == self.deadly:
            self.deadly = ""
            self.died.set()
            raise Died(point)


class Ears(Hearing):
    """Every host could be heard for long, unless a test sets ``after_break``."""

    after_break = False

    def long_enough(self) -> bool:
        return not self.after_break


class Post(LocalBus):
    """Loses, doubles or holds casts by method, and breaks calls before or after they were carried out."""

    def __init__(self, pools: dict[str, int]) -> None:
        super().__init__(pools)
        self.lost: Counter[str] = Counter()
        self.doubled: set[str] = set()
        self.refused: Counter[str] = Counter()
        self.unanswered: Counter[str] = Counter()
        self.broken: Counter[str] = Counter()

    def all_taken(self) -> bool:
        """Every cast to a host was taken from its queue."""
        return all(pool._queue.empty() for pool in self._pools.values())

    def cast(self, topic: str, method: str, request: msgspec.Struct) -> None:
        if self.lost[method] > 0:
            self.lost[method] -= 1
            return
        for _ in range(2 if method in self.doubled else 1):
            super().cast(topic, method, request)

    def call(
        self, topic: str, method: str, request: msgspec.Struct, reply: type[Any], timeout: float = 60.0
    ) -> Any:
        if self.refused[method] > 0:
            self.refused[method] -= 1
            raise Unavailable(f"{method} did not arrive")
        if self.broken[method] > 0:
            self.broken[method] -= 1
            raise KilonovaError(f"{method} met an unexpected error")
        answer = super().call(topic, method, request, reply, timeout)
        if self.unanswered[method] > 0:
            self.unanswered[method] -= 1
            raise Unavailable(f"the answer to {method} did not arrive")
        return answer


class Ticks:
    """A ticker that only the test turns."""

    def __init__(self) -> None:
        self._functions: list[Callable[[], object]] = []
        self._once: list[Callable[[], object]] = []

    def every(self, _seconds: float, function: Callable[[], object]) -> None:
        self._functions.append(function)

    def after(self, _seconds: float, function: Callable[[], object]) -> None:
        self._once.append(function)

    def tick(self) -> None:
        once, self._once = self._once, []
        for function in [*self._functions, *once]:
            function()


class Host:
    """One compute: its driver, its network, and its agent with hand-turned clocks."""

    def __init__(self, name: str, cloud: Cloud) -> None:
        self.name = name
        self._cloud = cloud
        self.driver = Driver(name, cloud.config)
        self.network = MemoryHost()
        self.start()

    def start(self) -> None:
        """Start an agent: at first, or after the one before it died."""
        self.reports, self.leases, self.looks, self.repairs, self.mends, self.images = (
            Ticks() for _ in range(6)
        )
        cloud = self._cloud
        parts = ComputeParts(
            host=self.name,
            config=cloud.config,
            bus=cloud.bus,
            driver=self.driver,
            network=self.network,
            faults=cloud.faults,
            images=Neighbour(cloud.images, cloud.bytes),
        )
        self.agent = Agent(parts, "compute", "builds")
        tickers = (self.reports, self.leases, self.looks, self.repairs, self.mends, self.images)
        self.agent.start(*cast(tuple[Ticker, Ticker, Ticker, Ticker, Ticker, Ticker], tickers))

    def vanish(self) -> None:
        """Take no more messages, and give no sign of life any more; its guests go on."""
        self.goes_silent()
        self._cloud.sql("UPDATE services SET last_seen = 0 WHERE host = ?", self.name)

    def goes_silent(self) -> None:
        """Its agent takes no more messages, as when it died; what it works on may go on."""
        for name in (topic(self.name), builds_topic(self.name)):
            self._cloud.bus._topics.pop(name, None)

    def is_empty(self) -> bool:
        return not self.driver.leftovers() and not self.network.plugged()


def first_start(db: Database) -> None:
    """What a first start leaves, and a project."""
    with db.write() as conn:
        flavors.seed(conn)
        domains.create(conn, Domain(id="default", name="Default"))
        projects.create(conn, Project(id=PROJECT, domain_id="default", name="p"))


class Bytes:
    """An image store in memory."""

    name = "file"
    keeps_disks = False

    def __init__(self) -> None:
        self.images: dict[str, bytes] = {}
        self.disks: dict[str, bytes] = {}
        """Of servers, that are in the same store: by their names."""

    def put(self, image_id: str, chunks: Iterable[bytes], max_size: int) -> int:
        self.images[image_id] = b"".join(chunks)
        return len(self.images[image_id])

    def open(self, image_id: str) -> BinaryIO:
        return io.BytesIO(self.images[image_id])

    def read(self, image_id: str) -> Iterator[bytes]:
        yield self.images[image_id]

    def delete(self, image_id: str) -> None:
        self.images.pop(image_id, None)

    def location(self, image_id: str) -> None:
        return None

    @contextmanager
    def reading(self, disk: ImageLocation) -> Iterator[BinaryIO]:
        if disk.image not in self.disks:
            raise BadRequest("client.glance may not read pool vms")
        yield io.BytesIO(self.disks[disk.image])


class AnyImages(Images):
    """The real service; a server is made of what it has not, too: one small image, whatever its id."""

    def ref(self, context: RequestContext, image_id: str) -> ImageRef:
        try:
            return super().ref(context, image_id)
        except NotFound:
            return ImageRef(id=image_id, name="tiny", disk_format="raw", size=512)


class Cloud:
    """``hosts`` of them; requests are a member's, or the admin's."""

    def __init__(self, db: Database, config: Config, hosts: int = 1) -> None:
        self.config = config
        self.db = db
        self.bus = Post(agents.pools(config))
        self.faults = Points()
        self.hearing = Ears(config, self.bus)
        self.network = BuiltinNetwork(self.db, config, self._tell_servers)
        self.volumes = BuiltinVolumes(self.db, self.bus, config, self.faults.reach)
        self.store = MemoryBackend()
        self.manager: Manager | None = None
        self.bytes = Bytes()
        self.images = AnyImages(self.db, self.bytes, config)
        self.scheduler = Scheduler(self.db, config, self.faults)
        self.bus.serve("scheduler", self.scheduler.handlers())
        self.conductor = self.another_conductor("conductor.1")
        self.bus.serve("conductor", service.handlers(self.conductor), 4)
        self.hosts = {name: Host(name, self) for name in (f"h{i}" for i in range(1, hosts + 1))}
        state = ComputeAPI(
            config=config,
            db=self.db,
            bus=self.bus,
            network=self.network,
            images=self.images,
            volumes=self.volumes,
            faults=self.faults,
        )
        services = [
            compute_api.service(state),
            network_api.service(self.network),
            image_api.service(self.images),
            volume_api.service(VolumeAPI(self.volumes, self.images)),
        ]
        self._client = falcon.testing.TestClient(application(services, _context))
        self.sweeping: service.Sweeper | None = None

    def _tell_servers(self, change: Change) -> None:
        """As the announcer does, at once. (Fake hosts follow nothing else.)"""
        for host, server_id in change.servers:
            look_again(self.bus, host, server_id)

    def keep_volumes(self) -> None:
        """From now on there is a volume manager, whose volumes are in memory (``store``)."""
        with self.db.write() as conn:
            volume_types.seed(conn)

        def ended(message: VolumeEnded) -> None:
            self.bus.cast("conductor", "volume_ended", message)

        parts = ManagerParts(
            name="box",
            owner="volume.box/1",
            config=self.config,
            db=self.db,
            bus=self.bus,
            places={"memory": Place("memory", "memory", self.store)},
            uploads=ShortUploads(self.images),
            faults=self.faults,
            ended=ended,
        )
        self.manager = Manager(parts)
        self.manager.start()

    def conductor_hears(self, method: str, message: Any) -> None:
        """A message that arrives at the conductor now."""
        service.MESSAGES[method](self.conductor, message)

    def another_conductor(self, name: str) -> ConductorParts:
        return ConductorParts(
            name=name,
            config=self.config,
            db=self.db,
            bus=self.bus,
            network=self.network,
            volumes=self.volumes,
            faults=self.faults,
            hearing=self.hearing,
        )

    def close(self) -> None:
        if self.sweeping:
            self.sweeping.close()
        if self.manager:
            self.manager.close()
        for host in self.hosts.values():
            for gate in host.driver.gates.values():
                gate.open()
            host.agent.stop()
        self.bus.close()
        self.db.close()

    # --- time

    def sweep(self) -> None:
        sweeper.sweep(self.conductor)

    def keep_sweeping(self) -> None:
        """From now on a thread sweeps, as in a real conductor."""
        self.sweeping = service.Sweeper(self.conductor)

    def conductor_forgets_liveness(self) -> None:
        """The scheduler reads every host anew at its next decision."""
        self.scheduler._hosts._full_at = 0.0

    def leases_run_out(self) -> None:
        """As if nobody had worked on anything for a while."""
        self.sql("UPDATE operations SET lease_until = 1 WHERE state = 'open'")

    def deadlines_pass(self) -> None:
        self.sql("UPDATE operations SET deadline = 1 WHERE state = 'open'")

    # --- asking

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        caller: str = "member",
        headers: dict[str, str] | None = None,
    ) -> Any:
        """(status, JSON)"""
        headers = {"X-Auth-Token": caller, "OpenStack-API-Version": "compute 2.96"} | (headers or {})
        result = self._client.simulate_request(method, path, json=body, headers=headers)
        return result.status_code, result.json if result.content else None

    def make_network(self) -> str:
        _, made = self.ask("POST", "/networking/v2.0/networks", {"network": {"name": "n"}})
        network = str(made["network"]["id"])
        subnet = {"network_id": network, "cidr": "10.91.0.0/24", "ip_version": 4}
        assert self.ask("POST", "/networking/v2.0/subnets", {"subnet": subnet})[0] == 201
        return network

    def create(self, network: str | None = None, caller: str = "member", **more: Any) -> str:
        networks: Any = [{"uuid": network}] if network else "none"
        server = {"name": "vm", "imageRef": IMAGE, "flavorRef": "42", "networks": networks, **more}
        status, answer = self.ask("POST", "/compute/v2.1/servers", {"server": server}, caller)
        assert status == 202, answer
        return str(answer["server"]["id"])

    def active(self, network: str | None = None, **more: Any) -> str:
        """A server that runs; its id."""
        server_id = self.create(network, **more)
        server = self.settled(server_id)
        assert server["status"] == "ACTIVE", server
        until(lambda: self.server(server_id)["OS-EXT-STS:power_state"] == 1, PATIENCE, "the guest to run")
        return server_id

    def delete(self, server_id: str) -> None:
        assert self.ask("DELETE", f"/compute/v2.1/servers/{server_id}")[0] == 204

    def act(self, server_id: str, action: str, value: Any = None) -> int:
        return int(self.ask("POST", f"/compute/v2.1/servers/{server_id}/action", {action: value})[0])

    def image(self, image_id: str) -> Any:
        """None if there is none (any more)."""
        status, answer = self.ask("GET", f"/image/v2/images/{image_id}", caller="admin")
        return answer if status == 200 else None

    def server(self, server_id: str, caller: str = "admin") -> Any:
        status, answer = self.ask("GET", f"/compute/v2.1/servers/{server_id}", caller=caller)
        return answer["server"] if status == 200 else None

    def settled(self, server_id: str) -> Any:
        """The server when nothing is done to it any more; None when it is gone."""
        until(lambda: not self._busy(server_id), PATIENCE, f"{server_id} to settle: {self.trace()}")
        return self.server(server_id)

    def gone(self, server_id: str) -> None:
        until(lambda: self.server(server_id) is None, PATIENCE, f"{server_id} to go")

    def _busy(self, server_id: str) -> bool:
        query = "SELECT count(*) FROM operations WHERE state = 'open' AND server_id = ?"
        return bool(self.sql(query, server_id)[0][0])

    def where(self, server_id: str) -> Host:
        return self.hosts[self.server(server_id)["OS-EXT-SRV-ATTR:host"]]

    def actions(self, server_id: str) -> list[dict[str, Any]]:
        """What was done to a server, oldest first, each with its events, oldest first."""
        path = f"/compute/v2.1/servers/{server_id}/os-instance-actions"
        found = []
        for action in reversed(self.ask("GET", path, caller="admin")[1]["instanceActions"]):
            shown = self.ask("GET", f"{path}/{action['request_id']}", caller="admin")[1]["instanceAction"]
            found.append({**shown, "events": list(reversed(shown["events"]))})
        return found

    # --- the oracle

    def unexplained(self) -> list[str]:
        return [line for check in CHECKS for (line,) in self.sql(check)]

    def sql(self, query: str, *values: Any) -> list[Any]:
        if self.db.engine.name == "postgresql":
            query = query.replace("%", "%%").replace("?", "%s")
        with self.db.write() as conn:
            result = conn.exec_driver_sql(query, values)
            return list(result) if result.returns_rows else []

    def trace(self) -> Any:
        query = "SELECT kind, state, owner, epoch, host, message FROM operations ORDER BY created_at"
        return [tuple(row) for row in self.sql(query)]

    def open_operation(self, server_id: str) -> Any:
        with self.db.read() as conn:
            return operations.open_of_server(conn, server_id)


def _context(token: str, request_id: str) -> RequestContext:
    return structs.replace(_CALLERS[token], request_id=request_id)
