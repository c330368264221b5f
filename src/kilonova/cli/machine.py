"""All of Kilonova in one process: every part made, wired and started, and stopped in reverse."""

from __future__ import annotations

import threading
from contextlib import ExitStack

from kilonova.cli.parts import agents, api, volumes
from kilonova.cli.parts.bus import Say, open_bus
from kilonova.cli.parts.conductor import start_conductor, start_scheduler, sweep
from kilonova.cli.parts.database import count_work, keep_alive, open_database
from kilonova.cli.parts.stop import go_on
from kilonova.cli.state import StateFolder
from kilonova.config import Config
from kilonova.engine.faults import FaultPoints
from kilonova.identity.service import Identity
from kilonova.image.neighbour import Neighbour
from kilonova.monitoring.watch import Watch
from kilonova.store import operations
from kilonova.store.database import Database


class Machine:
    """``say`` hears, in plain words, what takes a while; ``stop`` is set by who changes his mind before
    start() has ended. close() stops all that start() began."""

    def __init__(
        self,
        config: Config,
        state: StateFolder,
        driver: str,
        hosts: int,
        watch: Watch,
        say: Say,
        stop: threading.Event,
    ) -> None:
        self._config = config
        self._state = state
        self._driver = driver
        self._hosts = hosts
        self._watch = watch
        self._say = say
        self._stop = stop
        self._closing = ExitStack()
        self.database: Database
        """Once it is started."""

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
        config, state, watch, closing = self._config, self._state, self._watch, self._closing
        server = api.listen(address, port, closing)

        database_url = config.database.connection or f"sqlite:///{state.database}"
        db = self.database = open_database(config, database_url, watch, self._say, self._stop, closing)
        if not config.bus.url:
            # We hold the state folder's lock: whoever owned an operation is dead.
            with db.write() as conn:
                operations.expire_leases(conn)
        go_on(self._stop)
        identity = Identity(db, config, api.key_folder(config, state))
        ours = api.bootstrap(db, identity, state)
        images, store = api.open_images(config, db, api.image_folder(config, state), closing)

        faults = FaultPoints(config.faults)
        bus = open_bus(config, agents.pools(config), watch, self._say, self._stop, closing)
        start_scheduler(config, db, bus, faults, closing)
        conductor = start_conductor(config, db, bus, faults, closing)
        names = agents.host_names(config, self._hosts)
        neighbour = Neighbour(images, store)
        make = agents.host_maker(self._driver, config, state.folder("hosts"), neighbour, self._say)
        agents.start_agents(config, bus, faults, names, make, self._stop, watch, closing, neighbour)
        volumes.start_manager(config, db, bus, images, store, state.path, faults, closing)
        sweep(conductor, closing)
        count_work(config, db, watch)
        keep_alive(config, db, ["nova-conductor", "nova-scheduler"], closing)

        api.serve(server, config, db, bus, identity, images, faults, watch, closing)
        url = server.url
        if ours:
            state.write_credentials(url, config.region)
        return url
