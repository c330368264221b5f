"""A Kilonova of the tests' own: started, asked over HTTP, killed, started again."""

from __future__ import annotations

import http.client
import json
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.databases import connect

START_TIMEOUT = 120.0
CUT_OFF = (OSError, http.client.HTTPException)
"""What a client sees of a Kilonova that dies before it has answered, or in the midst of the answer."""


class Client:
    """A Kilonova with its state in one folder, at ``url``. Requests are the admin's.

    ``database_url``: where its database is, if not in that folder.
    """

    def __init__(self, state: Path, database_url: str = "") -> None:
        self.state = state
        self.database_url = database_url or f"sqlite:///{state / 'kilonova.db'}"
        self.url = ""
        self._token = self._project = ""

    # --- asking

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Any:
        """(status, JSON or None). ``path`` begins with the service's prefix."""
        if not self._token:
            self._login()
        told = {"X-Auth-Token": self._token, "OpenStack-API-Version": "compute 2.90"} | (headers or {})
        return self._request(method, path, body, told)[:2]

    def token(self) -> str:
        if not self._token:
            self._login()
        return self._token

    def _login(self) -> None:
        rc = dict(re.findall(r"export (OS_\w+)='(.*)'", (self.state / "openrc").read_text()))
        domain = {"name": "Default"}
        user = {"name": "admin", "password": rc["OS_PASSWORD"], "domain": domain}
        identity = {"methods": ["password"], "password": {"user": user}}
        scope = {"project": {"name": "admin", "domain": domain}}
        body = {"auth": {"identity": identity, "scope": scope}}
        _, answer, headers = self._request("POST", "/identity/v3/auth/tokens", body, {})
        self._project = answer["token"]["project"]["id"]
        self._token = headers["X-Subject-Token"]

    def _request(self, method: str, path: str, body: Any, headers: dict[str, str]) -> Any:
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
        request = urllib.request.Request(
            self.url + path, data, {"Content-Type": kind, **headers}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                raw = answer.read()
                return answer.status, json.loads(raw) if raw else None, answer.headers
        except urllib.error.HTTPError as error:
            raw = error.read()
            return error.code, json.loads(raw) if raw else None, error.headers

    # --- what most tests need

    def image(self, data: bytes, disk_format: str = "raw") -> str:
        """An active image with these bytes: its id."""
        body = {"name": "tiny", "disk_format": disk_format, "container_format": "bare"}
        status, image = self.ask("POST", "/image/v2/images", body)
        assert status == 201, image
        status, answer = self.ask("PUT", f"/image/v2/images/{image['id']}/file", data)
        assert status == 204, answer
        return str(image["id"])

    def network(self, cidr: str = "10.91.0.0/24") -> str:
        """A network with one subnet: its id."""
        status, made = self.ask("POST", "/networking/v2.0/networks", {"network": {"name": "n"}})
        assert status == 201, made
        subnet = {"network_id": made["network"]["id"], "cidr": cidr, "ip_version": 4}
        status, answer = self.ask("POST", "/networking/v2.0/subnets", {"subnet": subnet})
        assert status == 201, answer
        return str(made["network"]["id"])

    def default_group(self) -> str:
        """Id of the admin project's."""
        _, answer = self.ask("GET", "/networking/v2.0/security-groups?name=default")
        (group,) = [one["id"] for one in answer["security_groups"] if one["project_id"] == self._project]
        return str(group)

    def group(self, name: str) -> str:
        """A security group of that name, which lets nothing in: its id."""
        status, made = self.ask(
            "POST", "/networking/v2.0/security-groups", {"security_group": {"name": name}}
        )
        assert status == 201, made
        return str(made["security_group"]["id"])

    def drop(self, rule: str) -> None:
        """The rule of a security group is no more."""
        assert self.ask("DELETE", f"/networking/v2.0/security-group-rules/{rule}")[0] == 204

    def allow(self, group: str, **rule: Any) -> str:
        """Let this come to ports of the security group; the id of the rule."""
        body = {"security_group_id": group, "direction": "ingress", **rule}
        status, made = self.ask(
            "POST", "/networking/v2.0/security-group-rules", {"security_group_rule": body}
        )
        assert status == 201, made
        return str(made["security_group_rule"]["id"])

    def post_server(self, image: str, network: str | None = None, **more: Any) -> Any:
        networks: Any = [{"uuid": network}] if network else "none"
        server = {"name": "vm", "imageRef": image, "flavorRef": "42", "networks": networks, **more}
        return self.ask("POST", "/compute/v2.1/servers", {"server": server})

    def server(self, server_id: str) -> Any:
        """The server as GET shows it, or None when it is gone."""
        status, answer = self.ask("GET", f"/compute/v2.1/servers/{server_id}")
        return answer["server"] if status == 200 else None

    def settled(self, server_id: str, timeout: float = 60.0) -> Any:
        """The server when nothing is done to it any more."""

        def done() -> Any:
            server = self.server(server_id)
            if server is None:
                return {"status": "GONE"}
            return server if server["OS-EXT-STS:task_state"] is None and server["status"] != "BUILD" else None

        return until(done, timeout, f"server {server_id} to settle")

    # --- the oracle

    def database(self) -> Any:
        """A connection to the database, past Kilonova."""
        return connect(self.database_url)

    def unexplained(self) -> list[str]:
        """What the database says that cannot be (the invariants of DESIGN.md); empty when all is well."""
        with self.database() as db:
            return [line for check in CHECKS for (line,) in db.execute(check)]


class Up(Client):
    """`kilonova up` on one state folder; start() and kill() as often as wanted."""

    stderr: int = subprocess.STDOUT
    """A file's descriptor, or as Popen has it."""

    def __init__(self, state: Path, driver: str = "fake", hosts: int = 1, database_url: str = "") -> None:
        super().__init__(state, database_url)
        self.driver = driver
        self.hosts = hosts
        self.said = ""
        self._process: subprocess.Popen[str] | None = None
        self._ready = False
        self._heard = threading.Event()
        self._listener = threading.Thread()

    def start(self, config: str = "") -> Up:
        """Run it until its line `ready`. ``config`` is TOML."""
        self.begin(config)
        return self.wait_ready()

    def begin(self, config: str = "") -> None:
        """Run it, ready or not."""
        self.state.mkdir(exist_ok=True)
        file = self.state / "test.toml"
        if not self.database_url.startswith("sqlite"):
            config += f'\n[database]\nconnection = "{self.database_url}"\n'
        file.write_text(config)
        arguments = ["up", "--state", str(self.state), "--port", "0", "--driver", self.driver]
        arguments += ["--hosts", str(self.hosts), "--config", str(file)]
        command = [sys.executable, "-c", "from kilonova.cli import main; main()", *arguments]
        self._process = process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=self.stderr, text=True
        )
        self.said, self._ready = "", False
        self._heard = heard = threading.Event()
        self._listener = threading.Thread(target=self._listen, args=(process, heard), daemon=True)
        self._listener.start()

    def _listen(self, process: subprocess.Popen[str], heard: threading.Event) -> None:
        """Until the process ends: a pipe that nobody reads would hold it up."""
        assert process.stdout is not None
        for line in process.stdout:
            self.said += line
            if line.startswith("ready") and (found := re.search(r"http://\S+", line)):
                self.url, self._token, self._ready = found.group(), "", True
                heard.set()
        heard.set()

    def wait_ready(self, timeout: float = START_TIMEOUT) -> Up:
        self._heard.wait(timeout)
        if not self._ready:
            self.kill()
            raise AssertionError(f"kilonova up did not start: {self.said} {self.log()[-3000:]}")
        return self

    def stop(self) -> int:
        """Ctrl-C; the exit status."""
        return self._end(signal.SIGINT)

    def kill(self) -> int:
        return self._end(signal.SIGKILL)

    def wait(self, timeout: float = 60.0) -> int:
        """Until it ended by itself: the exit status."""
        assert self._process is not None
        status = self._process.wait(timeout)
        assert self._process.stdout is not None
        self._listener.join(timeout)
        self._process.stdout.close()
        self._process = None
        return status

    def _request(self, method: str, path: str, body: Any, headers: dict[str, str]) -> Any:
        """What is cut off says what became of the process: its log goes with its folder."""
        try:
            return super()._request(method, path, body, headers)
        except CUT_OFF as error:
            error.add_note(self._last_words())
            raise

    def _last_words(self) -> str:
        status = self._process.poll() if self._process is not None else None
        return f"kilonova up (exit status {status}): {self.said[-3000:]}\n{self.log()[-3000:]}"

    def _end(self, number: signal.Signals) -> int:
        if self._process is None:
            return 0
        self._process.send_signal(number)
        return self.wait()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def log(self) -> str:
        path = self.state / "kilonova.log"
        return path.read_text() if path.exists() else ""


VOLUME_CHECKS = [
    """SELECT 'volume ' || id || ' is ' || status FROM volumes WHERE status IN
       ('creating', 'downloading', 'extending', 'uploading', 'reverting', 'deleting',
        'attaching', 'detaching', 'retyping', 'maintenance')""",
    """SELECT 'volume in error without a message ' || id FROM volumes
       WHERE status LIKE 'error%' AND message IS NULL""",
    """SELECT 'volume ' || v.id || ' is ' || status || ' and nobody has it' FROM volumes v
       WHERE status IN ('in-use', 'reserved') AND NOT EXISTS
       (SELECT 1 FROM volume_attachments a WHERE a.volume_id = v.id)""",
    """SELECT 'volume ' || v.id || ' is available and somebody has it' FROM volumes v
       WHERE status = 'available' AND EXISTS (SELECT 1 FROM volume_attachments a WHERE a.volume_id = v.id)""",
    """SELECT 'snapshot ' || id || ' is ' || status FROM volume_snapshots
       WHERE status IN ('creating', 'deleting')""",
    """SELECT 'snapshot in error without a message ' || id FROM volume_snapshots
       WHERE status LIKE 'error%' AND message IS NULL""",
    """SELECT 'snapshot of no volume ' || id FROM volume_snapshots
       WHERE volume_id NOT IN (SELECT id FROM volumes)""",
    """SELECT 'attachment of no volume ' || id FROM volume_attachments
       WHERE volume_id NOT IN (SELECT id FROM volumes)""",
    """SELECT 'attachment of no server ' || a.id FROM volume_attachments a JOIN servers
       ON servers.id = a.server_id WHERE deleted_at IS NOT NULL""",
    """SELECT 'attachment ' || a.id || ' is ' || status FROM volume_attachments a JOIN servers
       ON servers.id = a.server_id WHERE status != 'attached' AND vm_state NOT LIKE 'shelved%'""",
]
"""What cannot be of volumes when nothing is done to any."""

CHECKS = [
    "SELECT 'open operation ' || kind || ' of ' || server_id FROM operations WHERE state = 'open'",
    """SELECT 'server ' || id || ' in ' || vm_state || '/' || coalesce(task_state, '') FROM servers
       WHERE deleted_at IS NULL AND (vm_state = 'building' OR task_state IS NOT NULL)""",
    """SELECT 'ERROR without fault ' || id FROM servers
       WHERE deleted_at IS NULL AND vm_state = 'error' AND fault IS NULL""",
    """SELECT 'claim of no server ' || server_id FROM claims
       WHERE server_id NOT IN (SELECT id FROM servers WHERE deleted_at IS NULL AND host = claims.host)""",
    """SELECT 'no claim of ' || id FROM servers WHERE deleted_at IS NULL AND host IS NOT NULL
       AND id NOT IN (SELECT server_id FROM claims WHERE host = servers.host)""",
    *(
        f"""SELECT 'host ' || host || ' counts {used} wrong' FROM hosts WHERE {used} !=
            (SELECT {claimed} FROM claims WHERE claims.host = hosts.host)"""
        for used, claimed in (
            ("vcpus_used", "coalesce(sum(vcpus), 0)"),
            ("memory_mb_used", "coalesce(sum(memory_mb), 0)"),
            ("disk_gb_used", "coalesce(sum(disk_gb), 0)"),
            ("servers", "count(*)"),
        )
    ),
    """SELECT 'usage of ' || project_id || ' counts wrong' FROM project_usage WHERE instances !=
       (SELECT count(*) FROM servers
        WHERE deleted_at IS NULL AND servers.project_id = project_usage.project_id)""",
    """SELECT 'port of no server ' || id FROM ports WHERE device_owner LIKE 'compute:%'
       AND device_id NOT IN (SELECT id FROM servers WHERE deleted_at IS NULL
                              AND (host IS NOT NULL OR vm_state = 'shelved_offloaded'))""",
    """SELECT 'port ' || ports.id || ' is elsewhere than its server' FROM ports JOIN servers
       ON servers.id = device_id WHERE deleted_at IS NULL AND servers.host != ports.host""",
    """SELECT 'attachment of no disk ' || a.id FROM volume_attachments a JOIN servers
       ON servers.id = a.server_id WHERE NOT EXISTS
       (SELECT 1 FROM block_device_mappings b WHERE b.attachment_id = a.id)""",
    """SELECT 'disk of no attachment ' || b.id FROM block_device_mappings b WHERE attachment_id IS NOT NULL
       AND NOT EXISTS (SELECT 1 FROM volume_attachments a WHERE a.id = b.attachment_id)""",
    """SELECT 'disk of no server ' || b.id FROM block_device_mappings b WHERE server_id IN
       (SELECT id FROM servers WHERE deleted_at IS NOT NULL)""",
    *VOLUME_CHECKS,
    """SELECT 'step without an end: ' || name FROM steps
       WHERE finished_at IS NULL AND epoch = (SELECT epoch FROM operations WHERE id = operation_id)
       AND (SELECT state FROM operations WHERE id = operation_id) != 'open'""",
]


def until(done: Callable[[], Any], timeout: float, what: str, every: float = 0.02) -> Any:
    """The first true answer; AssertionError names what was waited for. ``every``: seconds, more where to ask
    costs something and what is waited for takes long."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if answer := done():
            return answer
        time.sleep(every)
    raise AssertionError(f"waited {timeout} s in vain for {what}")
