"""The story of make demo-cluster, told inside the lab (cluster.py makes it)."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import backends
import fleet
from client import Client, says, uptime
from fleet import PORT, Service
from guests import guests, things
from lab import STATE, Machine, make_switch
from terminal import DemoFailed, quote, say, step

IMAGE = Path(__file__).resolve().parent.parent / "build/guest.qcow2"
KEY = STATE / "key"
CIDR = "10.123.0.0/24"
HOSTS = ("node1", "node2", "node3")
BEFORE, DURING = 3, 6
"""Servers that are made before anything dies, and while it does."""
BUILD_TIMEOUT, BOOT_TIMEOUT = 180.0, 180.0
BUILD_BEGINS_TIMEOUT = 30.0
"""Seconds. The guests are emulated where KVM does not work, and all of them share this machine."""


def main() -> None:
    become_child_of_an_init()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    story = Story()
    try:
        story.tell()
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 # whatever it is: say it
        known = isinstance(error, DemoFailed)
        say(f"\nThe demo failed: {error if known else f'{type(error).__name__}: {error}'}")
        story.show_logs()
        sys.exit(1)


def become_child_of_an_init() -> None:
    """The first process of the lab reaps what others leave, and ends when we do; with it, the lab."""
    child = os.fork()
    if child == 0:
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        pid, status = os.wait()
        if pid == child:
            os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


class Witness(NamedTuple):
    """A guest that can tell what happened to it."""

    server_id: str
    address: str
    host: Machine


class Story:
    def __init__(self) -> None:
        self._services: dict[str, Service] = {}

    def tell(self) -> None:
        with step("Four machines on one switch: network namespaces, each with its own name, /run and disk"):
            self.make_machines()
        with step("PostgreSQL and RabbitMQ on control; each host has its own user at the broker"):
            self.start_backends()
        with step("2 APIs behind one address, 2 conductors, 2 schedulers on control; an agent on each host"):
            self.start_services()
        with step("What servers need: an image, a network, a flavor, a key"):
            self.prepare()
        with step(f"{BEFORE} servers, made by one command"):
            self.build_before()
        with step("Wait for a guest to boot, and log in to it"):
            witness = self.log_in()
        with step("From there, ping a guest of the same network on another host: their hosts have a tunnel"):
            self.ping_across(witness)
        with step(
            f"{DURING} more servers; while they are built: kill -9 an API, a conductor, a scheduler, an agent"
        ):
            self.build_while_killing(witness)
        with step("All of them end well"):
            self.wait_for_all()
        with step("Where each landed, and one build's trace"):
            self.show()
        with step("Delete everything, and look for anything left on the hosts"):
            self.delete_all()
        with step("Stop every service; each ends by itself"):
            self.stop()

    # --- the machines and what runs on them

    def make_machines(self) -> None:
        make_switch()
        self.control = Machine("control", 10)
        self.hosts = {name: Machine(name, 11 + number) for number, name in enumerate(HOSTS)}
        for machine in (self.control, *self.hosts.values()):
            quote(f"{machine.name:8} {machine.address}")

    def start_backends(self) -> None:
        self._passwords = backends.Passwords(list(self.hosts))
        backends.start_rabbitmq(self.control, self._passwords)
        self._database = backends.start_postgresql(self.control, self._passwords)
        backends.wait_for_both(self.control)
        for name in self.hosts:
            quote(f"compute.{name} may use the queues of {name}, and speak to conductors for {name} alone")

    def start_services(self) -> None:
        fleet.configure(self.control, self.hosts, self._passwords, self._database)
        listening = self.control.listen(PORT)
        names = [("api", listening), ("conductor", None), ("scheduler", None)]
        made = [
            Service(kind, f"{kind}-{number}", self.control, given)
            for kind, given in names
            for number in (1, 2)
        ]
        made += [Service("compute", f"compute-{name}", machine) for name, machine in self.hosts.items()]
        self._services = {service.name: service for service in made}
        fleet.start(made)
        self._client = Client(self.control.disk / "state")
        quote(f"http://{self.control.address}:{PORT}: both APIs were given this one socket, as by systemd;")
        quote("the kernel gives each connection to one of them, and none is lost while one is away")

    # --- the user's commands

    def prepare(self) -> None:
        """Side by side: a client needs seconds of CPU to start."""

        def network() -> None:
            self._client.openstack("network", "create", "demo")
            self._client.openstack("subnet", "create", "demo", "--network", "demo", "--subnet-range", CIDR)

        def image() -> None:
            formats = ("--disk-format", "qcow2", "--container-format", "bare")
            self._client.openstack("image", "create", "demo", *formats, "--file", IMAGE)

        def flavor_and_key() -> None:
            self._client.openstack("flavor", "create", "demo", "--ram", "128", "--disk", "1", "--vcpus", "1")
            self._client.openstack("keypair", "create", "demo", "--private-key", KEY)
            KEY.chmod(0o600)

        def ssh_rule() -> None:
            rule = ("--protocol", "tcp", "--dst-port", "22", "default")
            self._client.openstack("security", "group", "rule", "create", *rule)

        def agents_user() -> None:
            secret = ("--password", self._passwords.images)
            self._client.openstack("user", "create", "nova", *secret, shown="user create nova --password …")
            self._client.openstack("role", "add", "service", "--user", "nova", "--project", "service")

        with ThreadPoolExecutor() as pool:
            for job in [
                pool.submit(make) for make in (image, network, flavor_and_key, ssh_rule, agents_user)
            ]:
                job.result()

    def build_before(self) -> None:
        self._create("early", BEFORE, "--wait")
        self._client.show_servers()

    def _create(self, name: str, count: int, *more: str) -> None:
        what = ("--image", "demo", "--flavor", "demo", "--network", "demo", "--key-name", "demo")
        many = ("--min", str(count), "--max", str(count))
        self._client.openstack("server", "create", name, *what, *many, *more, timeout=BUILD_TIMEOUT)

    def log_in(self) -> Witness:
        """A server that answers, on the host that will lose its agent."""
        server = self._client.servers()[0]
        ((address, *_),) = server["Networks"].values()
        witness = Witness(server["ID"], address, self.hosts[server["Host"]])
        deadline = time.monotonic() + BOOT_TIMEOUT
        while not (up := uptime(witness.host, address, KEY)):
            if time.monotonic() > deadline:
                quote(self._client.openstack("console", "log", "show", witness.server_id))
                raise DemoFailed(f"nobody can log in to {server['Name']} after {BOOT_TIMEOUT:.0f} s")
        pid, _ = guests(witness.host)[witness.server_id]
        quote(f"{server['Name']} on {witness.host.name}: up {up}, process {pid}")
        return witness

    def ping_across(self, witness: Witness) -> None:
        """With a packet of the network's full size."""
        others = [row for row in self._client.servers() if row["Host"] != witness.host.name]
        if not others:
            raise DemoFailed(f"all servers are on {witness.host.name}")
        ((address, *_),) = others[0]["Networks"].values()
        mtu = says(witness.host, witness.address, KEY, "cat /sys/class/net/eth0/mtu").strip()
        quote(f"its network card has an MTU of {mtu}, so that all fits into the tunnel")
        ping = f"ping -c 1 -s {int(mtu) - 28} {address}"
        deadline = time.monotonic() + BOOT_TIMEOUT
        while not (said := says(witness.host, witness.address, KEY, ping)):  # the other one boots
            if time.monotonic() > deadline:
                raise DemoFailed(
                    f"{others[0]['Name']} on {others[0]['Host']} does not answer {witness.address}"
                )
        quote(f"{others[0]['Name']} on {others[0]['Host']}: {said.splitlines()[1]}")

    # --- what goes wrong, and what comes of it

    def build_while_killing(self, witness: Witness) -> None:
        host = witness.host
        before = guests(host)
        with ThreadPoolExecutor() as pool:
            jobs = [pool.submit(self._create_whatever_happens, f"late{n}", 2) for n in range(DURING // 2)]
            self._wait_until_building(host)
            names = ("api-1", "conductor-1", "scheduler-1", f"compute-{host.name}")
            victims = [self._services[name] for name in names]
            for service in victims:
                quote(f"kill -9 {service.kill():<6} {service.name:14} on {service.machine.name}")
            self._check_guests(host, before, "ended with its agent")
            said = uptime(host, witness.address, KEY) or "nothing"
            quote(f"{host.name} has no agent now; its {len(before)} guest(s) run on; one says: up {said}")
            took = fleet.restart_like_systemd(victims)
            quote(f"started again, as by systemd; all ready after {took:.1f} s")
            for job in jobs:
                job.result()
        self._check_guests(host, before, "were not taken over by its new agent")
        said = uptime(host, witness.address, KEY)
        quote(f"the new agent of {host.name} has found them: the same processes; one says: up {said}")
        self._hit = host.name

    def _check_guests(self, host: Machine, before: dict[str, tuple[int, str]], otherwise: str) -> None:
        """They are the same processes as before."""
        if not before.items() <= guests(host).items():
            raise DemoFailed(f"guests of {host.name} {otherwise}: {before} became {guests(host)}")

    def _create_whatever_happens(self, name: str, count: int) -> None:
        """As a user does it whose connection breaks: look, and ask again for what is missing."""
        try:
            self._create(name, count)
        except DemoFailed as error:
            said = str(error).splitlines()[-1]
            quote(f"the client of {name} lost its API: {said}")
            made = sum(row["Name"].startswith(name) for row in self._client.servers())
            quote(f"{made} of its {count} servers had been accepted, and are built")
            if made < count:
                self._create(f"{name}-again", count - made)

    def _wait_until_building(self, host: Machine) -> None:
        """Until a build has come to this host, which shows by its folder; but not for ever."""
        folder = host.disk / "state/hosts" / host.name / "instances"
        known = len(list(folder.iterdir()))
        deadline = time.monotonic() + BUILD_BEGINS_TIMEOUT
        while len(list(folder.iterdir())) == known and time.monotonic() < deadline:
            threading.Event().wait(0.02)

    def wait_for_all(self) -> None:
        began = time.monotonic()
        while True:
            statuses = [row["Status"] for row in self._client.servers()]
            if len(statuses) == BEFORE + DURING and set(statuses) == {"ACTIVE"}:
                break
            if "ERROR" in statuses or time.monotonic() - began > BUILD_TIMEOUT:
                self._client.show_servers()
                raise DemoFailed(f"not all are ACTIVE: {statuses}")
        quote(f"{len(statuses)} of {BEFORE + DURING} are ACTIVE")

    def show(self) -> None:
        self._client.show_servers()
        late = [row for row in self._client.servers() if row["Name"].startswith("late")]
        self._client.show_trace(max(late, key=lambda row: bool(row["Host"] == self._hit)))

    # --- the end

    def delete_all(self) -> None:
        names = sorted(row["ID"] for row in self._client.servers())
        self._client.openstack("server", "delete", *names, shown=f"server delete … ({len(names)} servers)")
        self._wait(lambda: not self._client.servers(), "all servers to go")
        rest = [(kind, "delete", "demo") for kind in ("image", "network", "flavor", "keypair")]
        with ThreadPoolExecutor() as pool:
            for job in [pool.submit(self._client.openstack, *words) for words in rest]:
                job.result()
        for machine in self.hosts.values():
            self._wait(lambda machine=machine: not things(machine), f"{machine.name} to be bare")  # type: ignore[misc]
            quote(f"{machine.name}: no guest, device, namespace, rule or file of a guest")

    def _wait(self, done: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + BUILD_TIMEOUT
        while not done():
            if time.monotonic() > deadline:
                left = {name: found for name, machine in self.hosts.items() if (found := things(machine))}
                raise DemoFailed(f"waited in vain for {what}; left: {left}")
            threading.Event().wait(0.2)

    def stop(self) -> None:
        for service in reversed(self._services.values()):
            service.stop()
        quote(f"{len(self._services)} services ended with status 0")

    def show_logs(self) -> None:
        for service in self._services.values():
            lines = service.log.read_text(errors="replace").splitlines() if service.log.exists() else []
            odd = [line for line in lines if re.search(r"\[(warning|error|critical) *\]|Traceback", line)]
            if odd:
                say(f"\nWarnings in {service.log}:")
                quote("\n".join(odd[-8:]))


if __name__ == "__main__":
    main()
