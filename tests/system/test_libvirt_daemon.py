"""A libvirt that is away and comes back, with a real daemon of the test's own."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import libvirt
import pytest
from tests.rabbit import Rabbit
from tests.running import until
from tests.services import Services

from kilonova.cancel import Cancel
from kilonova.config import Config, Libvirt
from kilonova.domain.block_devices import AttachedVolume
from kilonova.domain.errors import Unavailable
from kilonova.domain.servers import BuildSpec, Flavor, ImageRef, PowerState
from kilonova.domain.volumes import Connection, IscsiConnection, RbdConnection
from kilonova.virt.base import GuestEvent
from kilonova.virt.libvirt.driver import LibvirtDriver

pytestmark = pytest.mark.system
LAUNCHER = Path(__file__).with_name("private-libvirtd")
IMAGE = bytes(1 << 20)


class OneImage:
    def open(self, image_id: str) -> io.BytesIO:
        return io.BytesIO(IMAGE)


class Daemon:
    """A libvirtd in namespaces of its own, with all its files in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._log = (folder / "log").open("ab")

    @property
    def uri(self) -> str:
        return f"qemu+unix:///system?socket={self.folder}/libvirt-sock"

    def start(self) -> None:
        command = ["unshare", "--mount", "--net", "--propagation", "private", str(LAUNCHER), str(self.folder)]
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class Told:
    def __init__(self) -> None:
        self._events: list[GuestEvent] = []
        self._more = threading.Condition()

    def __call__(self, event: GuestEvent) -> None:
        with self._more:
            self._events.append(event)
            self._more.notify_all()

    def forget(self) -> None:
        with self._more:
            self._events.clear()

    def awaits(self, server_id: str, *states: PowerState, timeout: float = 60.0) -> bool:
        wanted = {GuestEvent(server_id=server_id, power_state=state) for state in states}
        with self._more:
            return self._more.wait_for(lambda: any(event in wanted for event in self._events), timeout)


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    folder = Path(tempfile.mkdtemp(prefix="kn-lvd-"))
    folder.chmod(0o711)
    daemon = Daemon(folder)
    yield daemon
    daemon.kill()
    shutil.rmtree(folder)


@pytest.fixture
def spec() -> BuildSpec:
    return BuildSpec(
        server_id=str(uuid.uuid4()),
        name="n",
        hostname="n",
        project_id="p",
        user_id="u",
        flavor=Flavor(id="1", name="tiny", vcpus=1, memory_mb=64, root_gb=1),
        image=ImageRef(
            id=str(uuid.UUID(int=1)),
            disk_format="raw",
            size=len(IMAGE),
            os_hash_value=hashlib.sha512(IMAGE).hexdigest(),
        ),
    )


def eventually(act: Callable[[], object], timeout: float = 60.0) -> None:
    """Do it again until libvirt is there."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            act()
            return
        except Unavailable:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def assert_away(driver: LibvirtDriver, spec: BuildSpec) -> None:
    """Nobody waits for the time that a guest may take: the test would end before."""
    calls: list[Callable[[], object]] = [
        driver.check,
        driver.guests,
        driver.report,
        lambda: driver.ensure_paused(spec, []),
        lambda: driver.destroy(spec.server_id),
        lambda: driver.wait_for_running(spec.server_id, 3600.0),
    ]
    for call in calls:
        with pytest.raises(Unavailable):
            call()


def qemu_pid(daemon: Daemon, server_id: str) -> int:
    return int((daemon.folder / f"run/libvirt/qemu/instance-{server_id}.pid").read_text())


def test_a_daemon_that_is_away_and_comes_back(daemon: Daemon, spec: BuildSpec) -> None:
    told = Told()
    conf = daemon.folder / "ceph.conf"
    conf.write_text(f"[global]\nkeyring = {daemon.folder}/$cluster.$name.keyring\n")
    (daemon.folder / "ceph.client.me.keyring").write_text("[client.me]\n\tkey = T3BlbiBTZXNhbWU=\n")
    config = Config(
        libvirt=Libvirt(uri=daemon.uri, virt_type="qemu", images_rbd_ceph_conf=str(conf), rbd_user="me")
    )
    driver = LibvirtDriver(config, daemon.folder / "kn", OneImage())
    driver.start(told)
    try:
        # Away when a build begins: what needs no libvirt is done, the rest says so at once.
        driver.ensure_base_image(spec, Cancel())
        driver.ensure_disks(spec, Cancel())
        assert_away(driver, spec)

        daemon.start()
        eventually(lambda: driver.ensure_paused(spec, []))
        driver.check()
        driver.resume_build(spec.server_id)
        driver.wait_for_running(spec.server_id, 60.0)
        assert told.awaits(spec.server_id, PowerState.RUNNING)

        # Killed while a guest runs: the guest goes on, and is told again when the daemon is back.
        daemon.kill()
        eventually_away(driver)
        assert_away(driver, spec)
        told.forget()
        daemon.start()
        assert told.awaits(spec.server_id, PowerState.RUNNING)

        # Events are heard again after the reconnection.
        await_monitor(daemon, spec.server_id)
        os.kill(qemu_pid(daemon, spec.server_id), signal.SIGKILL)
        assert told.awaits(spec.server_id, PowerState.CRASHED)

        assert_secrets_are_given(driver, daemon, spec)

        # What happens while it is away is told when it is back.
        told.forget()
        driver.power_on(spec, [])
        assert told.awaits(spec.server_id, PowerState.RUNNING)
        pid = qemu_pid(daemon, spec.server_id)
        daemon.kill()
        os.kill(pid, signal.SIGKILL)
        told.forget()
        daemon.start()
        assert told.awaits(spec.server_id, PowerState.CRASHED, PowerState.SHUTDOWN)
    finally:
        eventually(lambda: driver.destroy(spec.server_id))
        driver.stop()
    assert driver_folder_is_empty(daemon)


def test_a_guest_that_dies_before_the_daemon_has_it_again(daemon: Daemon, spec: BuildSpec) -> None:
    """The daemon says that it runs as long as it waits for an answer, and tells nobody that none came."""
    told = Told()
    config = Config(libvirt=Libvirt(uri=daemon.uri, virt_type="qemu"))
    driver = LibvirtDriver(config, daemon.folder / "kn", OneImage())
    daemon.start()
    driver.start(told)
    try:
        driver.ensure_base_image(spec, Cancel())
        driver.ensure_disks(spec, Cancel())
        eventually(lambda: driver.ensure_paused(spec, []))
        driver.resume_build(spec.server_id)
        driver.wait_for_running(spec.server_id, 60.0)
        pid = qemu_pid(daemon, spec.server_id)
        daemon.kill()
        eventually_away(driver)
        os.kill(pid, signal.SIGSTOP)
        told.forget()
        daemon.start()
        assert told.awaits(spec.server_id, PowerState.RUNNING)
        told.forget()
        os.kill(pid, signal.SIGKILL)
        assert told.awaits(spec.server_id, PowerState.CRASHED, PowerState.SHUTDOWN)
    finally:
        eventually(lambda: driver.destroy(spec.server_id))
        driver.stop()
    assert driver_folder_is_empty(daemon)


def await_monitor(daemon: Daemon, server_id: str) -> None:
    """The daemon has its guest again. Of one that dies before that, it tells nobody."""
    with closing(libvirt.open(daemon.uri)) as connection:
        connection.lookupByName(f"instance-{server_id}").memoryStats()


def assert_secrets_are_given(driver: LibvirtDriver, daemon: Daemon, spec: BuildSpec) -> None:
    """Ceph's key for as long as the daemon lives, a password for as long as it takes; nobody reads them."""
    fsid = str(uuid.uuid4())
    in_ceph = network_volume(
        RbdConnection(pool="p", image="i", monitors=["127.0.0.1:1"], user="another", fsid=fsid)
    )
    behind_iscsi = network_volume(
        IscsiConnection(portal="127.0.0.1:1", iqn="iqn.a:b", lun=1, username="u", password="p")
    )
    driver.attach_volume(spec, in_ceph)
    driver.attach_volume(spec, behind_iscsi)
    client = libvirt.open(daemon.uri)
    (secret,) = client.listAllSecrets()
    assert (secret.usageType(), secret.XMLDesc().count("'yes'")) == (libvirt.VIR_SECRET_USAGE_TYPE_CEPH, 2)
    with pytest.raises(libvirt.libvirtError, match="private"):
        secret.value()
    document = client.lookupByName(f"instance-{spec.server_id}").XMLDesc()
    assert secret.UUIDString() in document
    assert "<auth username='me'>" in document
    for volume in (in_ceph, behind_iscsi):
        driver.detach_volume(spec.server_id, volume.volume_id, 1.0, Cancel())
    client.close()


def network_volume(connection: Connection) -> AttachedVolume:
    return AttachedVolume(
        volume_id=str(uuid.uuid4()),
        connection=connection,
        device_name="vdy" if isinstance(connection, RbdConnection) else "vdz",
        disk_bus="virtio",
    )


def eventually_away(driver: LibvirtDriver) -> None:
    """The kernel closes the dead daemon's socket; the driver hears of it soon after."""

    def is_away() -> bool:
        try:
            driver.check()
        except Unavailable:
            return True
        return False

    until(is_away, 60, "the driver to see that the daemon is dead")


def driver_folder_is_empty(daemon: Daemon) -> bool:
    return list((daemon.folder / "kn" / "instances").iterdir()) == []


def test_an_agent_without_its_libvirt_is_not_ready(daemon: Daemon, rabbit: Rabbit) -> None:
    """It says what is missing, when it starts and when it loses it, and is ready again by itself."""
    libvirt = f'[libvirt]\nuri = "{daemon.uri}"\nvirt_type = "qemu"\n'
    monitoring = '[monitoring]\nlisten = "127.0.0.1:0"\n'
    user = (
        '[service_user]\nauth_url = "http://127.0.0.1:1/identity"\npassword = "of an API that is not there"\n'
    )
    exchange = f"kilonova-{uuid.uuid4()}"
    services = Services(daemon.folder / "kn", rabbit.url, exchange, libvirt + monitoring + user, compute=())
    try:
        services.start("conductor")
        services.begin("compute")
        until(lambda: "monitoring: " in services.said("compute"), 60, "the agent to begin")
        url = services.said("compute").partition("monitoring: ")[2].split()[0]

        until(lambda: "hypervisor" in problems(url), 60, "the agent to miss libvirt")
        until(lambda: "hypervisor_away" in services.log("compute"), 60, "the log to say so")
        daemon.start()
        services.wait_ready("compute")
        until(lambda: problems(url) == {}, 60, "the agent to be ready")

        daemon.kill()
        until(lambda: "hypervisor" in problems(url), 60, "the agent to see that")
        assert daemon.uri in problems(url)["hypervisor"]
        until(
            lambda: 'kilonova_part_up{part="hypervisor"} 0.0' in page(f"{url}/metrics")[1], 60, "the metric"
        )
        assert page(f"{url}/healthz")[0] == 200

        daemon.start()
        until(lambda: problems(url) == {}, 60, "the agent to be ready again")
        until(
            lambda: 'kilonova_part_up{part="hypervisor"} 1.0' in page(f"{url}/metrics")[1], 60, "the metric"
        )
    finally:
        services.close()


def problems(url: str) -> dict[str, str]:
    """Part → what it says; empty if the process is ready."""
    status, text = page(f"{url}/readyz")
    told = json.loads(text)
    assert (status == 200) == told["ready"]
    return {} if told["ready"] else {"state": told["state"], **told["problems"]}


def page(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
