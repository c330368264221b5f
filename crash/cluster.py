"""All services, each a process, with a RabbitMQ and a PostgreSQL of their own: one folder, the loopback."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import struct
import tempfile
import threading
import urllib.error
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any, BinaryIO

from tests.databases import Catalog
from tests.ports import free_ports
from tests.postgresql import PostgreSQL
from tests.rabbit import Rabbit
from tests.running import Client, until

from crash.fates import Fates
from crash.proxy import Proxy
from crash.service import Service

BASE: dict[str, dict[str, Any]] = {
    "bus": {"heartbeat": 2.0},
    "operations": {"lease": 3.0, "sweep_interval": 0.5},
    "compute": {"report_interval": 1.0, "service_down_time": 10.0},
    "quota": {"instances": -1, "cores": -1, "ram": -1},
    "network": {"quota_port": -1},
    "volume": {"name": "box", "quota_volumes": -1, "quota_gigabytes": -1, "quota_snapshots": -1},
    "volume.backends.file": {"driver": "file", "shared": True},
}
"""Every service's configuration: short leases, so that recovery is seen in seconds."""

_PASSWORD = "the-admins-and-the-computes"

OTHER_VOLUMES = "other-volumes"
"""Where a second backend has its volumes, below the state folder."""

TWO_BACKENDS: dict[str, dict[str, Any]] = {
    "volume.backends.other": {"driver": "file", "shared": True, "path": OTHER_VOLUMES}
}
"""What a volume manager is told so that it has that one beside its usual one."""

_QEMU_WRITES = 101
"""The byte of an image that QEMU locks while a guest writes (its block/file-posix.c)."""

NOT_NOW = (urllib.error.URLError, HTTPException, OSError)
"""What a client meets whose API dies or is not there."""


class Cluster(Client):
    """``counts``: how many of each kind. With ``fates`` each service speaks to the broker through a proxy."""

    def __init__(
        self,
        folder: Path,
        rabbit: Rabbit,
        postgresql: PostgreSQL,
        database_url: str,
        counts: Mapping[str, int],
        fates: Fates | None = None,
        more: Mapping[str, Mapping[str, Any]] | None = None,
        compute: Mapping[str, tuple[str, ...]] | None = None,
    ) -> None:
        super().__init__(folder / "state", database_url)
        self.state.mkdir()
        (self.state / "admin-password").touch(mode=0o600)
        (self.state / "admin-password").write_text(_PASSWORD)
        self.rabbit = rabbit
        self.postgresql = postgresql
        self.services: dict[str, Service] = {}
        self.proxies: dict[str, Proxy] = {}
        self._more = more or {}
        self._compute = compute or {}
        self._exchange = f"kilonova-{folder.name}"
        self._urls: list[str] = []
        for name in [f"{kind}-{number}" for kind in counts for number in range(1, counts[kind] + 1)]:
            self._add(name, fates)
        self._turn = itertools.cycle(self._urls)
        self.url = next(self._turn)
        self.image_id = self.network_id = ""
        self.lost: set[str] = set()
        """Volumes whose bytes were taken away."""
        self._writing: BinaryIO | None = None

    def _add(self, name: str, fates: Fates | None) -> None:
        kind = name.partition("-")[0]
        arguments: tuple[str, ...] = (
            ("--driver", "fake", *self._compute.get(name, ())) if kind == "compute" else ()
        )
        if kind == "api":
            (port,) = free_ports(1)
            arguments = ("--port", str(port))
            self._urls.append(f"http://127.0.0.1:{port}")
        if fates is not None:
            self.proxies[name] = Proxy(name, self.rabbit.port, fates)
        self.services[name] = Service(name, self.state, arguments)
        self.configure(name)

    def configure(self, name: str, more: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        """From its next start on: the usual configuration, with ``more`` options by section."""
        url = self.rabbit.url
        if name in self.proxies:
            url = url.replace(f":{self.rabbit.port}/", f":{self.proxies[name].port}/")
        sections: dict[str, dict[str, Any]] = {
            **{section: dict(options) for section, options in BASE.items()},
            "database": {"connection": self.database_url},
        }
        sections["bus"] |= {"url": url, "exchange": self._exchange}
        for given in (self._more, more or {}):
            for section, options in given.items():
                sections[section] = sections.get(section, {}) | dict(options)
        if "path" in (other := sections.get("volume.backends.other", {})):
            other["path"] = str(self.state / other["path"])
        if name.startswith("compute") and self._urls:
            sections["service_user"] = {
                "auth_url": f"{self._urls[0]}/identity",
                "username": "admin",
                "password": _PASSWORD,
                "project_name": "admin",
            }
        host = f"host-{name.partition('-')[2]}" if name.startswith("compute") else f"of-{name}"
        lines = [f'state = "{self.state}"', f'host = "{host}"']
        for section, options in sections.items():
            lines += ["", f"[{section}]", *(f"{name} = {_toml(value)}" for name, value in options.items())]
        self.services[name].config.write_text("\n".join(lines) + "\n")

    def start(self) -> None:
        """All at the same time, as an init system would; those that run go on."""
        for service in self.services.values():
            service.kill()
            service.begin()
        for service in self.services.values():
            service.wait_ready()

    def restart(self, name: str) -> None:
        self.services[name].kill()
        self.services[name].begin()
        self.services[name].wait_ready()

    def close(self) -> None:
        self.written_to("")
        for service in self.services.values():
            service.kill()
        for proxy in self.proxies.values():
            proxy.close()

    def keep_logs(self, folder: Path) -> None:
        """A copy of what all services wrote."""
        folder.mkdir(parents=True, exist_ok=True)
        for path in self.state.glob("*.log"):
            (folder / path.name).write_text(path.read_text())

    # --- asking

    def furnish(self) -> None:
        """An image, and a network with room for many servers."""
        self.image_id, self.network_id = self.image(b"\0" * 512), self.network("10.91.0.0/16")

    def delete_all(self) -> None:
        """Servers, then volumes, until all are gone. AssertionError."""
        ids = [server["id"] for server in self.ask("GET", "/compute/v2.1/servers?limit=1000")[1]["servers"]]
        for server_id in ids:
            self.ask("DELETE", f"/compute/v2.1/servers/{server_id}")
        until(lambda: self.ask("GET", "/compute/v2.1/servers")[1]["servers"] == [], 60, "all to be gone")
        for volume in self.volumes():
            self.ask_volume("DELETE", f"/volumes/{volume['id']}?cascade=true")
        until(lambda: self.volumes() == [], 60, "all volumes to be gone")

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Any:
        """All points take longer than a token lives."""
        answer = super().ask(method, path, body, headers)
        if answer[0] != 401:
            return answer
        self._token = ""
        return super().ask(method, path, body, headers)

    def ask_volume(self, method: str, path: str, body: Any = None) -> Any:
        """(status, JSON) of the Block Storage API."""
        headers = {"OpenStack-API-Version": "volume 3.70"}
        return self.ask_any(method, f"/volume/v3{path}", body, headers)

    def volumes(self) -> list[dict[str, Any]]:
        """In detail."""
        found: list[dict[str, Any]] = self.ask_volume("GET", "/volumes/detail?limit=1000")[1]["volumes"]
        return found

    def ask_any(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Any:
        """As ask(), of one API after the other until one answers. ``NOT_NOW`` if none did.

        A request whose answer was lost may be made twice.
        """
        for _ in self._urls[1:]:
            try:
                return self.ask(method, path, body, headers)
            except NOT_NOW:
                self.url = next(self._turn)
        return self.ask(method, path, body, headers)

    # --- the hosts

    def on_hosts(self) -> dict[str, set[str]]:
        """Host → servers that have anything there; a file that is no server's by its name."""
        found = {}
        for folder in (self.state / "hosts").glob("host-*/"):
            files = {path.name for path in folder.iterdir()}
            found[folder.name] = {name.removesuffix(".json") for name in files}
        return found

    def nics(self, host: str, server: str) -> dict[str, bool]:
        """The taps of a fake guest, and whether their links are up."""
        return dict(self._guest(host, server).get("nics", {}))

    def volumes_of_guest(self, host: str, server: str) -> dict[str, int]:
        """Volume → GiB that the fake guest believes it has; 0: as large as it was when it came."""
        return dict(self._guest(host, server).get("volumes", {}))

    def take_volumes_of_guest(self, server: str) -> None:
        """It believes that it has none. Its host's service does not run."""
        (file,) = self.state.glob(f"hosts/*/{server}.json")
        file.write_text(json.dumps(json.loads(file.read_text()) | {"volumes": {}}))

    def _guest(self, host: str, server: str) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self.state / "hosts" / host / f"{server}.json").read_text())
        except FileNotFoundError:
            return {}
        return found

    def written_to(self, volume_id: str) -> None:
        """A guest has that volume open, and no other; empty: none has. It is locked as QEMU does it, which
        fake guests do not."""
        if self._writing is not None:
            self._writing.close()
            self._writing = None
        if volume_id:
            self._writing = (self.state / "volumes" / f"volume-{volume_id}").open("rb")
            lock = struct.pack("hhqqi0q", fcntl.F_RDLCK, os.SEEK_SET, _QEMU_WRITES, 1, 0)
            fcntl.fcntl(self._writing.fileno(), fcntl.F_OFD_SETLK, lock)

    def volume_files(self) -> set[str]:
        """Names of all that the volume manager keeps."""
        folders = [self.state / "volumes", self.state / OTHER_VOLUMES]
        return {path.name for folder in folders if folder.exists() for path in folder.iterdir()}


Backends = tuple[Rabbit, PostgreSQL, str]
"""A broker, a database server, and the URL of a new database on it."""


@contextmanager
def backends() -> Iterator[Backends]:
    """Both of our own."""
    with tempfile.TemporaryDirectory(prefix="kilonova-crash-rabbit-") as folder:
        rabbit, postgresql = Rabbit(Path(folder)), PostgreSQL()
        try:
            starting = threading.Thread(target=rabbit.start)
            starting.start()
            postgresql.start()
            catalog = Catalog(postgresql)
            url = catalog.make()
            catalog.close()
            starting.join()
            yield rabbit, postgresql, url
        finally:
            rabbit.stop()
            postgresql.remove()


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {_toml(one)}" for name, one in value.items()) + "}"
    return f'"{value}"' if isinstance(value, str) else str(value).lower()
