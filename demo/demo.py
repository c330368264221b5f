"""make demo: one virtual machine through the whole path, with the openstack client as anybody has it.

Starts ``kilonova up`` on a free port with a state folder of its own, creates all that a server needs, logs
in to it, shows the trace of its build, deletes everything, and looks whether anything is left. Whatever
fails, it says so, shows the end of the log, cleans up, and ends with status 1.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from host import Host
from terminal import DemoFailed, quote, run, say, step

PROJECT = Path(__file__).resolve().parent.parent
BIN = PROJECT / ".venv/bin"
STATE = PROJECT / "build/demo-state"
SHOWN_STATE = str(STATE.relative_to(PROJECT))
IMAGE = PROJECT / "build/guest.qcow2"
KEY = STATE / "demo-key"
CIDR = "10.123.0.0/24"

START_TIMEOUT = 60.0
CLIENT_TIMEOUT = 60.0
SSH_RULE = ("--protocol", "tcp", "--dst-port", "22", "default")
"""Without it nothing that the guest did not ask for comes in."""
BUILD_TIMEOUT = 180.0
BOOT_TIMEOUT = 120.0
"""Seconds. An emulated guest on a loaded machine may need a minute to its login prompt."""


def main() -> None:
    started = time.monotonic()
    say("Kilonova: one virtual machine through the whole path")
    check_machine()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ended from outside: clean up as for Ctrl-C
    demo = Demo()
    try:
        demo.tell()
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 # whatever it is: say it, and clean up
        say(f"\nThe demo failed: {_words(error)}")
        demo.show_log()
        demo.rescue()
        sys.exit(1)
    say(f"\nDone in {time.monotonic() - started:.0f} s.")


def _words(error: BaseException) -> str:
    match error:
        case DemoFailed():
            return str(error)
        case KeyboardInterrupt():
            return "interrupted"
        case _:
            return f"{type(error).__name__}: {error}"


def check_machine() -> None:
    if os.geteuid() != 0:
        raise SystemExit("The demo makes a network for its guest, which only root may do: sudo make demo")
    if not IMAGE.exists():
        raise SystemExit(f"{IMAGE} is missing: make demo builds it (tools/mkguest)")


class Demo:
    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._server_may_exist = False
        shutil.rmtree(STATE, ignore_errors=True)
        STATE.mkdir(parents=True, mode=0o700)
        self._host = Host(STATE)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("OS_")}
        self._environment = environment | {
            "OS_CLOUD": "kilonova",
            "OS_CLIENT_CONFIG_FILE": str(STATE / "clouds.yaml"),
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }

    def tell(self) -> None:
        with step("Start Kilonova: API, conductor, scheduler, compute and network in one process"):
            self.start()
        with step("What a server needs: an image, a network, a flavor, a key, and a rule that lets ssh in"):
            self.prepare()
        with step("Create the server and wait until it is ACTIVE"):
            address = self.create_server()
        with step("What it is made of on this machine"):
            self.show_things()
        with step("Its console, until the login prompt"):
            self.wait_for_login()
        with step("Log in through its own address: host name, key and user data arrived"):
            self.log_in(address)
        with step("The trace of the build"):
            quote(self.kilonova("trace", "demo", "--state", str(STATE)))
        with step("Delete everything"):
            self.delete_all()
        with step("Stop Kilonova, and look for anything left behind"):
            self.stop()
            self.check_nothing_left()

    def start(self) -> None:
        options = ["--state", str(STATE), "--port", "0", "--driver", "libvirt"]
        say(f"  $ kilonova up {' '.join(options)}".replace(str(STATE), SHOWN_STATE))
        # In a session of its own: a Ctrl-C ends the demo, which then needs Kilonova to clean up.
        self._process = subprocess.Popen(
            [BIN / "kilonova", "up", *options],
            stdin=subprocess.DEVNULL,
            stdout=(STATE / "output").open("wb"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        deadline = time.monotonic() + START_TIMEOUT
        while not (ready := [line for line in self.output() if line.startswith("ready")]):
            if self._process.poll() is not None:
                raise DemoFailed("\n".join(["kilonova up ended at once:", *self.output()]))
            if time.monotonic() > deadline:
                raise DemoFailed(f"kilonova up was not ready after {START_TIMEOUT:.0f} s")
            time.sleep(0.05)
        quote(ready[0].split(" (")[0])

    def output(self) -> list[str]:
        return (STATE / "output").read_text(errors="replace").splitlines()

    def prepare(self) -> None:
        """Side by side: a client needs seconds of CPU to start."""

        def network() -> None:
            created = self.openstack("network", "create", "demo", "-f", "json")
            self.openstack("subnet", "create", "demo", "--network", "demo", "--subnet-range", CIDR)
            self._host.network = json.loads(created)["id"]

        def image() -> None:
            self.openstack(
                *("image", "create", "demo", "--disk-format", "qcow2", "--container-format", "bare"),
                *("--file", IMAGE),
            )

        def flavor_and_key() -> None:
            self.openstack("flavor", "create", "demo", "--ram", "128", "--disk", "1", "--vcpus", "1")
            self.openstack("keypair", "create", "demo", "--private-key", KEY)
            KEY.chmod(0o600)

        def ssh_rule() -> None:
            self.openstack("security", "group", "rule", "create", *SSH_RULE)

        with ThreadPoolExecutor() as pool:
            for job in [pool.submit(make) for make in (image, network, flavor_and_key, ssh_rule)]:
                job.result()

    def create_server(self) -> str:
        """The server's address."""
        self._server_may_exist = True
        try:
            created = json.loads(
                self.openstack(
                    *("server", "create", "demo", "--image", "demo", "--flavor", "demo", "--network", "demo"),
                    *("--key-name", "demo", "--user-data", PROJECT / "demo/user-data.sh"),
                    *("--wait", "-f", "json"),
                    timeout=BUILD_TIMEOUT,
                )
            )
        except DemoFailed:
            say("  It did not come up. What Kilonova says of it:")
            quote(self.openstack("server", "show", "demo", "-c", "status", "-c", "fault", "-f", "yaml"))
            raise
        address = created["addresses"]["demo"][0]
        quote(f"server {created['id']} is ACTIVE at {address}")
        return str(address)

    def show_things(self) -> None:
        assert self._process is not None
        for thing in self._host.things(but_process=self._process.pid):
            quote(str(thing))

    def wait_for_login(self) -> None:
        deadline = time.monotonic() + BOOT_TIMEOUT
        while "login:" not in (console := self.openstack("console", "log", "show", "demo")):
            if time.monotonic() > deadline:
                quote(console)
                raise DemoFailed(f"no login prompt after {BOOT_TIMEOUT:.0f} s")
        quote(console)

    def log_in(self, address: str) -> None:
        options = {
            "IdentityFile": KEY,
            "IdentitiesOnly": "yes",
            "BatchMode": "yes",
            "ConnectTimeout": "30",
            "StrictHostKeyChecking": "no",
            "UserKnownHostsFile": "/dev/null",
            "LogLevel": "ERROR",
        }
        words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        answer = run(
            *(
                "ssh",
                "-F",
                "none",
                *words,
                f"cirros@{address}",
                "hostname; cat /run/user-data-was-here; uname -sr",
            ),
            environment=self._environment,
            timeout=60,
            shown=f"ssh -i demo-key cirros@{address} 'hostname; cat /run/user-data-was-here; uname -sr'",
        )
        quote(answer)
        if answer.splitlines()[:2] != ["demo", "user data ran on demo"]:
            raise DemoFailed("the guest does not know its name, or its user data did not run")

    def delete_all(self) -> None:
        self.openstack("server", "delete", "demo", "--wait", timeout=BUILD_TIMEOUT)
        self._server_may_exist = False
        rest = [(kind, "delete", "demo") for kind in ("image", "network", "flavor", "keypair")]
        with ThreadPoolExecutor() as pool:
            for job in [pool.submit(self.openstack, *words) for words in rest]:
                job.result()

    def stop(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)
        try:
            status = self._process.wait(30)
        except subprocess.TimeoutExpired:
            raise DemoFailed("kilonova up did not end within 30 s of SIGINT") from None
        if status != 0:
            raise DemoFailed(f"kilonova up ended with status {status}")

    def check_nothing_left(self) -> None:
        left = [str(thing) for thing in self._host.things()]
        if left:
            raise DemoFailed("left behind: " + ", ".join(left))
        files = [path for path in (STATE / "instances").rglob("*") if path.is_file()]
        if files:
            raise DemoFailed("files of the guest are left: " + ", ".join(map(str, files)))
        shutil.rmtree(STATE)
        quote("no process, device, namespace or rule is left; the state folder is removed")

    def show_log(self) -> None:
        for name in ("output", "kilonova.log"):
            if (STATE / name).exists():
                say(f"\nThe end of {STATE / name}:")
                quote("\n".join((STATE / name).read_text(errors="replace").splitlines()[-30:]))

    def rescue(self) -> None:
        """Clean up, whatever still works. The state folder stays, to be looked at."""
        say("\nCleaning up.")
        with ExitStack() as last:
            last.callback(self._host.sweep)
            last.callback(self._kill)
            if self._process is not None and self._process.poll() is None:
                try:
                    if self._server_may_exist:
                        self.openstack("server", "delete", "demo", "--wait", timeout=BUILD_TIMEOUT)
                    self.stop()
                except DemoFailed as error:
                    say(f"  {error}")
        left = [str(thing) for thing in self._host.things()]
        say(f"  left behind: {', '.join(left)}" if left else f"  Nothing is left but the files in {STATE}.")

    def _kill(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(10)

    def openstack(self, *words: str | Path, timeout: float = CLIENT_TIMEOUT) -> str:
        shown = " ".join(["openstack", *(word.name if isinstance(word, Path) else word for word in words)])
        return run(BIN / "openstack", *words, environment=self._environment, timeout=timeout, shown=shown)

    def kilonova(self, *words: str) -> str:
        return run(
            BIN / "kilonova",
            *words,
            environment=self._environment,
            timeout=CLIENT_TIMEOUT,
            shown=" ".join(["kilonova", *words]).replace(str(STATE), SHOWN_STATE),
        )


if __name__ == "__main__":
    main()
