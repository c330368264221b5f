"""All of Kilonova in one process: every part made, wired and started, and stopped in reverse."""

from __future__ import annotations

import re
import socket
import threading
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import falcon
from cheroot import wsgi
from sqlalchemy.exc import DatabaseError

from kilonova import log
from kilonova.api import bodies
from kilonova.api import compute as compute_api
from kilonova.api import identity as identity_api
from kilonova.api import image as image_api
from kilonova.api import network as network_api
from kilonova.api.compute.state import ComputeAPI
from kilonova.api.http import application
from kilonova.bus.local import LocalBus
from kilonova.cli.state import StateFolder
from kilonova.compute.agent import Agent
from kilonova.compute.parts import Parts as ComputeParts
from kilonova.conductor import service as conductor
from kilonova.conductor.parts import Parts as ConductorParts
from kilonova.config import Config
from kilonova.domain.errors import BadRequest, Unavailable
from kilonova.engine.faults import FaultPoints
from kilonova.engine.ticker import Ticker
from kilonova.identity.service import Identity
from kilonova.image.file import FileStore
from kilonova.image.service import Images
from kilonova.network.base import HostNetwork
from kilonova.network.builtin.service import BuiltinNetwork
from kilonova.scheduler.service import Scheduler
from kilonova.store import flavors, hosts, migrate, operations
from kilonova.store.database import Database
from kilonova.virt.base import Driver

_HTTP_THREADS = 16
_KEPT_CONNECTIONS = 1000
"""Idle connections that stay open; with cheroot's default of 10 the eleventh client always connects anew."""

_CONDUCTOR_THREADS = 4

Say = Callable[[str], None]


class Stopped(Exception):
    """Asked to stop while it started."""


class Machine:
    """``say`` hears, in plain words, what takes a while; ``stop`` is set by who changes his mind before
    start() has ended. close() stops all that start() began."""

    def __init__(
        self, config: Config, state: StateFolder, driver: str, hosts: int, say: Say, stop: threading.Event
    ) -> None:
        self._config = config
        self._state = state
        self._driver = driver
        self._hosts = hosts
        self._say = say
        self._stop = stop
        self._closing = ExitStack()

    def start(self, address: str, port: int) -> str:
        """Start everything; the URL at which it serves. Stopped: nothing is left started."""
        try:
            return self._start(address, port)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop in reverse: first take no more requests; guests go on."""
        self._closing.close()

    def _start(self, address: str, port: int) -> str:
        config, state = self._config, self._state
        server = _listening(address, port)
        self._closing.callback(server.stop)  # if the start fails; see the end for the other time

        db = self._database()
        self._go_on()
        identity = Identity(db, config, state.folder("keys"))
        identity.bootstrap(state.admin_password())
        store = FileStore(state.folder("images"))
        images = Images(db, store, config)
        images.recover()
        network = BuiltinNetwork(db, config)

        bus = LocalBus({"compute": config.compute.build_workers})
        self._closing.callback(bus.close)
        bus.serve("scheduler", Scheduler(db, config).handlers())
        name = f"conductor.{uuid.uuid4()}"
        faults = FaultPoints(config.faults)
        parts = ConductorParts(name=name, config=config, db=db, bus=bus, network=network, faults=faults)
        bus.serve("conductor", conductor.handlers(parts), _CONDUCTOR_THREADS)
        self._start_agents(bus, store, faults)
        sweeper = conductor.Sweeper(parts)
        self._closing.callback(sweeper.close)
        self._keep_services_alive(db)

        server.wsgi_app = application(
            [
                identity_api.service(identity),
                image_api.service(images),
                network_api.service(network),
                compute_api.versions_service(),
                compute_api.service(
                    ComputeAPI(config=config, db=db, bus=bus, network=network, images=images)
                ),
            ],
            identity.authenticate,
        )
        thread = threading.Thread(target=server.serve, name="http", daemon=True)
        thread.start()
        self._closing.callback(server.stop)
        url = f"http://{address}:{server.bind_addr[1]}"
        state.write_credentials(url, config.region)
        return url

    def _go_on(self) -> None:
        if self._stop.is_set():
            raise Stopped

    def _database(self) -> Database:
        """The database, up to date. We hold the state folder's lock: whoever owned an operation is dead.

        Unavailable: it is there, and cannot be used.
        """
        url = self._config.database.connection or f"sqlite:///{self._state.database}"
        db = Database(url)
        self._closing.callback(db.close)
        try:
            migrate.upgrade(db)
            with db.write() as conn:
                flavors.seed(conn)
                operations.expire_leases(conn)
        except DatabaseError as error:
            raise Unavailable(f"the database {db.engine.url} cannot be used: {error.orig}") from error
        return db

    def _start_agents(self, bus: LocalBus, store: FileStore, faults: FaultPoints) -> None:
        tickers = [Ticker("reports"), Ticker("leases"), Ticker("repairs")]
        for ticker in tickers:
            self._closing.callback(ticker.close)
        for name in self._host_names():
            driver, host_network = self._make_host(name, store)
            parts = ComputeParts(
                host=name,
                config=self._config,
                bus=bus,
                driver=driver,
                network=host_network,
                faults=faults,
            )
            agent = Agent(parts, "compute")
            self._closing.callback(agent.stop)
            self._go_on()
            agent.start(*tickers)
            self._go_on()

    def _host_names(self) -> list[str]:
        own = self._config.host or socket.gethostname()
        return [own] if self._hosts == 1 else [f"{own}-{number}" for number in range(1, self._hosts + 1)]

    def _make_host(self, name: str, store: FileStore) -> tuple[Driver, HostNetwork]:
        folder = self._state.folder("hosts") / name
        if self._driver == "fake":
            from kilonova.network.host import MemoryHost
            from kilonova.virt.fake import FakeDriver

            return FakeDriver(name, self._config, folder=folder), MemoryHost()
        return self._libvirt_host(folder, store)

    def _libvirt_host(self, folder: Path, store: FileStore) -> tuple[Driver, HostNetwork]:
        from kilonova.network.host import LinuxHost
        from kilonova.virt.libvirt.driver import LibvirtDriver
        from kilonova.virt.libvirt.reaper import adopt_guests

        adopt_guests()
        self._say("connecting to libvirt (the first start looks at what QEMU can do: some seconds)")
        folder.mkdir(exist_ok=True, mode=0o700)
        driver = LibvirtDriver(self._config, folder, store)
        return driver, LinuxHost(self._config, folder / "network")

    def _keep_services_alive(self, db: Database) -> None:
        """The conductor and the scheduler show in the list of services, up while this process is."""
        own = self._config.host or socket.gethostname()

        def seen() -> None:
            with db.write() as conn:
                for binary in ("nova-conductor", "nova-scheduler"):
                    hosts.seen(conn, binary, own, "internal")

        seen()
        ticker = Ticker("services")
        self._closing.callback(ticker.close)
        ticker.every(self._config.compute.report_interval, seen)


def _listening(address: str, port: int) -> wsgi.Server:
    """A server that listens already, so that a port in use is known before anything has begun.

    BadRequest says which address it could not have, and why.
    """
    server = wsgi.Server(
        (address, port), _starting, numthreads=_HTTP_THREADS, request_queue_size=512, timeout=30
    )
    server.gateway = bodies.Gateway
    server.keep_alive_conn_limit = _KEPT_CONNECTIONS
    try:
        server.prepare()
    except OSError as error:
        # cheroot packs what the system said for each address into one text.
        reasons = dict.fromkeys(re.findall(r"\[Errno -?\d+\] ([^)]+)\)", str(error)))
        raise BadRequest(f"cannot listen on {address}:{port}: {', '.join(reasons) or error}") from error
    log.get("http").info("listening", address=address, port=server.bind_addr[1])
    return server


def _starting(_environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    start_response(falcon.HTTP_503, [("Retry-After", "1")])
    return [b"starting"]
