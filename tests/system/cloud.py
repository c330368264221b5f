"""A cloud with real guests, as its user has it: servers by the API, and a shell in each by ssh."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.host_oracle import HostOracle, real_machine
from tests.running import Up, until

BOOT_SECONDS = 240.0
"""8 to 20 s alone, more on a busy machine."""
SERVERS = "/compute/v2.1/servers"


def openstack(up: Up, *lines: str) -> str:
    """These commands, by one client."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OS_")}
    told = {"OS_CLOUD": "kilonova", "OS_CLIENT_CONFIG_FILE": str(up.state / "clouds.yaml"), "NO_PROXY": "*"}
    done = subprocess.run(
        [str(Path(sys.executable).with_name("openstack"))],
        input="".join(f"{line}\n" for line in lines),
        env=kept | told,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.stdout + done.stderr


class Guest:
    """A server with a system in it."""

    def __init__(self, up: Up, server_id: str, address: str, key: Path) -> None:
        self._up = up
        self.id = server_id
        self.address = address
        self.reached_at = address
        """Where one logs in: its own address, or a floating IP."""
        self._key = key

    # --- from outside
    def shown(self) -> Any:
        return self._up.server(self.id)

    def act(self, **action: Any) -> None:
        """``act(os_stop=None)``; returns when it was accepted."""
        body = {name.replace("os_", "os-"): value for name, value in action.items()}
        status, answer = self._up.ask("POST", f"{SERVERS}/{self.id}/action", body)
        assert status in (200, 202), answer

    def becomes(self, status: str, within: float = 60.0) -> Any:
        """The server, when it has this status and nothing is done to it."""

        seen: Any = None

        def is_so() -> Any:
            nonlocal seen
            seen = self.shown()
            there = seen["status"] == status and seen["OS-EXT-STS:task_state"] is None
            return seen if there else None

        try:
            return until(is_so, within, f"{self.id} to be {status}")
        except AssertionError as error:
            error.add_note(f"it is {json.dumps(seen)}; {self._up.log()[-2000:]}")
            raise

    def console(self) -> str:
        status, answer = self._up.ask("POST", f"{SERVERS}/{self.id}/action", {"os-getConsoleOutput": {}})
        assert status == 200, answer
        return str(answer["output"])

    # --- from inside
    def run(self, command: str, within: float = 60.0) -> str:
        """What the command prints; AssertionError if it fails or the guest cannot be reached."""
        done = self._ssh(command, within)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout.strip()

    def is_reached(self, within: float = 20.0) -> bool:
        return self._ssh("true", within).returncode == 0

    def awaits_boot(self) -> None:
        """Until one can log in with the key."""
        try:
            until(self.is_reached, BOOT_SECONDS, f"a shell on {self.id}")
        except AssertionError as error:
            raise AssertionError(f"{error}; its console ends: {self.console()[-2000:]}") from None

    def uptime(self) -> float:
        """Seconds since its kernel began."""
        return float(self.run("cat /proc/uptime").split()[0])

    def power_off(self) -> None:
        """It powers itself off."""
        self._ssh("poweroff", 10)

    def ssh_command(self, command: str) -> list[str]:
        """What runs it, in the network of the tests."""
        options = {
            "IdentityFile": self._key,
            "IdentitiesOnly": "yes",
            "BatchMode": "yes",
            "ConnectTimeout": "20",
            "ServerAliveInterval": "2",
            "StrictHostKeyChecking": "no",
            "UserKnownHostsFile": "/dev/null",
            "LogLevel": "ERROR",
        }
        words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        return ["ssh", "-F", "none", *words, f"cirros@{self.reached_at}", command]

    def _ssh(self, command: str, within: float) -> subprocess.CompletedProcess[str]:
        whole = self.ssh_command(command)
        try:
            return subprocess.run(whole, capture_output=True, text=True, timeout=within, check=False)
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(whole, 255, "", f"no answer within {within} s")


class Ticks:
    """A connection to a guest over which something comes all the time."""

    def __init__(self, guest: Guest) -> None:
        command = guest.ssh_command("while :; do echo tick; sleep 0.2; done")
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self._heard: queue.Queue[bytes] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def __enter__(self) -> Ticks:
        self.go_on()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def go_on(self) -> None:
        """Some come that were not there before."""
        with self._heard.mutex:
            self._heard.queue.clear()
        for _ in range(3):
            self._heard.get(timeout=60)

    def ended(self) -> bool:
        return self._process.poll() is not None

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._heard.put(line)


class Cloud:
    """A running Kilonova with the libvirt driver, an image that boots, and a key."""

    def __init__(self, up: Up, oracle: HostOracle, image: Path) -> None:
        self.up = up
        self.oracle = oracle
        self.image = up.image(image.read_bytes(), "qcow2")
        self._keys: dict[str, Path] = {}
        # As a user does who wants to reach its servers.
        default = up.default_group()
        up.allow(default, protocol="tcp", port_range_min=22, port_range_max=22)
        up.allow(default, protocol="icmp")

    def key(self, name: str) -> None:
        """A key pair of that name, made by the API."""
        body = {"keypair": {"name": name, "type": "ssh"}}
        status, answer = self.up.ask("POST", "/compute/v2.1/os-keypairs", body)
        assert status == 201, answer
        path = self.up.state / f"key-{len(self._keys)}"
        path.touch(mode=0o600)
        path.write_text(answer["keypair"]["private_key"])
        self._keys[name] = path

    def boot(self, name: str, networks: list[str], key: str, **more: Any) -> Guest:
        """A server that was accepted and is ACTIVE; its system boots. Its first network leads to it."""
        server = {"name": name, "imageRef": self.image, "flavorRef": "42", "key_name": key, **more}
        server["networks"] = [{"uuid": network} for network in networks]
        status, answer = self.up.ask("POST", SERVERS, {"server": server})
        assert status == 202, answer
        server_id = answer["server"]["id"]
        assert self.up.settled(server_id)["status"] == "ACTIVE", self.up.server(server_id)
        return Guest(self.up, server_id, self.address(server_id, networks[0]), self._keys[key])

    def address(self, server_id: str, network: str) -> str:
        _, answer = self.up.ask(
            "GET", f"/networking/v2.0/ports?device_id={server_id}&network_id={network}&fields=fixed_ips"
        )
        return str(answer["ports"][0]["fixed_ips"][0]["ip_address"])

    def delete(self, *guests: Guest) -> None:
        for guest in guests:
            assert self.up.ask("DELETE", f"{SERVERS}/{guest.id}")[0] == 204
        for guest in guests:
            until(lambda guest=guest: guest.shown() is None, 60, f"{guest.id} to go")


@contextmanager
def real_cloud(image: Path, config: str = "") -> Iterator[Cloud]:
    with real_machine() as (up, oracle):
        up.start(config)
        yield Cloud(up, oracle, image)
