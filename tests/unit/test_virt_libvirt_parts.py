"""The libvirt driver's small parts that need no hypervisor."""

from __future__ import annotations

import io
import os
import threading
import time
from pathlib import Path

import pycdlib
import pytest

from kilonova.config import Config, Libvirt
from kilonova.domain.errors import BadRequest, BuildFailed, NotFound, Timeout, Unavailable
from kilonova.domain.servers import PowerState
from kilonova.virt.libvirt import config_drive, embed, host, needs
from kilonova.virt.libvirt.folder import Folder
from kilonova.virt.libvirt.short_path import ROOM, ShortPath

libvirt = pytest.importorskip("libvirt")

from kilonova.virt.libvirt import errors, power  # noqa: E402
from kilonova.virt.libvirt.driver import LibvirtDriver  # noqa: E402
from kilonova.virt.libvirt.watch import Watch  # noqa: E402


# --- errors
class FakeLibvirtError(libvirt.libvirtError):  # type: ignore[misc, name-defined]
    def __init__(self, code: int, domain: int, message: str) -> None:
        Exception.__init__(self, message)
        self.err = (code, domain, message, 2, None, None, None, -1, -1)


@pytest.mark.parametrize(
    ("code", "domain", "expected"),
    [
        (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_FROM_QEMU, NotFound),
        (libvirt.VIR_ERR_NO_CONNECT, libvirt.VIR_FROM_NONE, Unavailable),
        (libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_FROM_RPC, Unavailable),
        (libvirt.VIR_ERR_SYSTEM_ERROR, libvirt.VIR_FROM_REMOTE, Unavailable),
        (libvirt.VIR_ERR_OPERATION_TIMEOUT, libvirt.VIR_FROM_QEMU, Timeout),
        (libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_FROM_QEMU, BuildFailed),
    ],
)
def test_errors_keep_libvirts_words(code: int, domain: int, expected: type[Exception]) -> None:
    with pytest.raises(expected, match="cannot try: the words") as raised, errors.translated("try"):
        raise FakeLibvirtError(code, domain, "the words")
    assert type(raised.value) is expected


# --- power states
@pytest.mark.parametrize(
    ("state", "reason", "saved", "expected"),
    [
        (libvirt.VIR_DOMAIN_RUNNING, 1, False, PowerState.RUNNING),
        (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_USER, False, PowerState.PAUSED),
        (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_SHUTDOWN, False, PowerState.SHUTDOWN),
        (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_CRASHED, False, PowerState.CRASHED),
        (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_SAVED, True, PowerState.SUSPENDED),
        (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_UNKNOWN, True, PowerState.SUSPENDED),
        (libvirt.VIR_DOMAIN_NOSTATE, 0, False, PowerState.NOSTATE),
        (99, 0, False, PowerState.NOSTATE),
    ],
)
def test_power_states(state: int, reason: int, saved: bool, expected: PowerState) -> None:
    assert power.power_state(state, reason, saved) is expected


def test_a_pause_on_the_way_is_no_news() -> None:
    paused = libvirt.VIR_DOMAIN_PAUSED
    assert power.is_passing(paused, libvirt.VIR_DOMAIN_PAUSED_STARTING_UP)
    assert power.is_passing(paused, libvirt.VIR_DOMAIN_PAUSED_SAVE)
    assert not power.is_passing(paused, libvirt.VIR_DOMAIN_PAUSED_USER)
    assert not power.is_passing(paused, libvirt.VIR_DOMAIN_PAUSED_IOERROR)


# --- watch
def test_a_wait_ends_with_the_event_and_not_later() -> None:
    state = {"running": False}
    watch = Watch(lambda _server: None)

    def happen() -> None:
        state["running"] = True
        watch.changed("other")
        watch.changed("s")

    threading.Timer(0.05, happen).start()
    began = time.monotonic()
    assert watch.wait("s", lambda: state["running"] or None, 30.0)
    assert time.monotonic() - began < 25.0


def test_a_wait_ends_after_its_time() -> None:
    assert Watch(lambda _server: None).wait("s", lambda: None, 0.05) is None


def test_a_lost_connection_wakes_who_waits() -> None:
    watch = Watch(lambda _server: None)
    away = threading.Event()

    def look() -> None:
        if away.is_set():
            raise Unavailable("gone")

    threading.Timer(0.05, lambda: (away.set(), watch.wake_all())).start()
    with pytest.raises(Unavailable):
        watch.wait("s", look, 30.0)


def test_what_fails_at_one_event_does_not_stop_the_next() -> None:
    seen: list[str] = []
    last = threading.Event()

    def look(server_id: str) -> None:
        seen.append(server_id)
        if server_id == "bad":
            raise Unavailable("gone")
        if server_id == "worse":
            raise ValueError(server_id)
        if server_id == "last":
            last.set()

    watch = Watch(look)
    watch.start()
    for server_id in ("bad", "worse", "last"):
        watch.changed(server_id)
    assert last.wait(60.0)
    watch.stop()
    assert seen == ["bad", "worse", "last"]


# --- config drive
def test_a_config_drive_has_the_files_and_the_label(tmp_path: Path) -> None:
    files = {
        "openstack/latest/meta_data.json": b"{}",
        "openstack/latest/user_data": b"\x00\xff" * 5000,
        "openstack/2012-08-10/meta_data.json": b"{}",
        "ec2/latest/meta-data.json": b"",
    }
    path = tmp_path / "disk.config"
    config_drive.write(path, files)
    assert path.stat().st_mode & 0o077 == 0
    iso = pycdlib.PyCdlib()
    iso.open(str(path))
    assert iso.pvd.volume_identifier.strip() == b"config-2"
    for name, content in files.items():
        for kind in ("joliet_path", "rr_path"):
            read = io.BytesIO()
            iso.get_file_from_iso_fp(read, **{kind: f"/{name}"})
            assert read.getvalue() == content
    iso.close()
    assert os.listdir(tmp_path) == ["disk.config"]


# --- host
def test_cpu_info_of_capabilities() -> None:
    document = """<capabilities><host><cpu><arch>x86_64</arch><model>EPYC</model><vendor>AMD</vendor>
        <topology sockets='1' dies='1' cores='2' threads='1'/><feature name='vme'/><feature name='aes'/>
        </cpu></host></capabilities>"""
    assert host.cpu_info(document) == {
        "arch": "x86_64",
        "model": "EPYC",
        "vendor": "AMD",
        "topology": {"cells": 1, "sockets": 1, "dies": 1, "cores": 2, "threads": 1},
        "features": ["aes", "vme"],
    }
    assert host.cpu_info("<capabilities><host/></capabilities>") == {}


def test_capacity_is_of_this_machine() -> None:
    total = host.capacity(7)
    assert total.vcpus == os.cpu_count()
    assert total.memory_mb > 0
    assert total.disk_gb == 7


def test_what_is_missing_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs.shutil, "which", lambda tool, path: None if tool == "qemu-img" else tool)
    (line,) = [line for line in needs.missing() if line.startswith("qemu-img")]
    assert line.startswith("qemu-img is missing (no qemu-img): apt-get install")
    assert line.endswith("qemu-utils")


# --- short paths
def test_a_short_path_is_used_as_it_is() -> None:
    short = ShortPath(Path("/srv/kilonova"))
    short.make()
    assert short.path == Path("/srv/kilonova")
    short.remove()


def test_a_long_path_gets_a_short_name_while_it_is_used(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * ROOM)
    deep.mkdir()
    run = tmp_path / "run"
    run.mkdir()
    short = ShortPath(deep, run)
    assert len(short.path.name) < 25
    for _ in range(2):
        short.make()
        assert short.path.resolve() == deep
    other = ShortPath(deep.with_name("y" * ROOM), run)
    assert other.path != short.path
    short.remove()
    short.remove()
    assert list(run.iterdir()) == []


def test_something_in_the_way_of_the_name_is_an_error(tmp_path: Path) -> None:
    short = ShortPath(tmp_path / ("x" * ROOM), tmp_path)
    short.path.write_text("a stranger's")
    with pytest.raises(Unavailable, match="in the way"):
        short.make()


def test_without_a_run_time_directory_the_limit_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    with pytest.raises(Unavailable, match=f"at most {ROOM} bytes"):
        ShortPath(Path("/" + "x" * ROOM))


# --- QEMU's user
def test_guests_that_run_as_root_are_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(embed, "QEMU_USER", "nobody")
    home = tmp_path / "home"
    folder = Folder(home / "state")
    folder.make()
    home.chmod(0o700)
    said: list[str] = []
    embed.configure(folder, folder.root, said.append)
    embed.open_way_for_qemu(folder, folder.root, said.append)
    assert 'user = "root"' in (folder.embed / "etc" / "qemu.conf").read_text()
    as_root, by_daemon = said
    assert "guests run as root: nobody cannot pass /" in as_root
    assert "/var/lib/kilonova" in as_root
    assert "guests may not start" in by_daemon


# --- configuration
@pytest.mark.parametrize("wrong", [Libvirt(virt_type="xen"), Libvirt(disk_cachemode="turbo")])
def test_a_wrong_option_is_named(tmp_path: Path, wrong: Libvirt) -> None:
    with pytest.raises(BadRequest, match=r"libvirt.* is '(xen|turbo)', not one of"):
        LibvirtDriver(Config(libvirt=wrong), tmp_path, OneImage())


def test_a_driver_whose_daemon_never_came_can_be_stopped(tmp_path: Path) -> None:
    uri = f"qemu+unix:///system?socket={tmp_path}/nobody"
    driver = LibvirtDriver(Config(libvirt=Libvirt(uri=uri, virt_type="qemu")), tmp_path / "f", OneImage())
    driver.start(lambda _event: None)
    with pytest.raises(Unavailable, match="is away"):
        driver.guests()
    driver.stop()


class OneImage:
    def open(self, image_id: str) -> io.BytesIO:
        return io.BytesIO()
