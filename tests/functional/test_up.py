"""`kilonova up` as one starts it: what it says when it cannot, and what it keeps to itself."""

from __future__ import annotations

import fcntl
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.running import Up, until

from kilonova.cli.up import up as up_command

KILONOVA = [sys.executable, "-c", "from kilonova.cli import main; main()"]


def up_fails(tmp_path: Path, *arguments: str, driver: str = "fake", config: str | bytes | None = None) -> str:
    """It ends by itself, says one line of why, and no traceback: that line."""
    words = ["up", "--state", str(tmp_path / "state"), "--port", "0", "--driver", driver, *arguments]
    if config is not None:
        file = tmp_path / "test.toml"
        file.write_bytes(config if isinstance(config, bytes) else config.encode())
        words += ["--config", str(file)]
    done = subprocess.run([*KILONOVA, *words], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode in (1, 2), done
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


def test_a_second_one_on_the_same_state_is_refused(tmp_path: Path) -> None:
    first = Up(tmp_path / "state").start()
    try:
        assert f"another kilonova is running on {tmp_path / 'state'}" in up_fails(tmp_path)
        assert first.ask("GET", "/compute/v2.1/servers")[0] == 200
    finally:
        assert first.stop() == 0


def test_who_dies_in_a_library_says_where(tmp_path: Path) -> None:
    up = Up(tmp_path / "state").start()
    os.kill(up.pid, signal.SIGSEGV)
    assert up.wait() == -signal.SIGSEGV
    assert "Fatal Python error: Segmentation fault" in up.said
    assert "kilonova/cli/up.py" in up.said


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        said = up_fails(tmp_path, "--port", port)
    assert f"127.0.0.1:{port}" in said
    assert "Address already in use" in said
    assert "No socket could be created" not in said


@pytest.mark.parametrize("address", ["192.0.2.1", "no such host"])
def test_an_address_that_is_not_ours(tmp_path: Path, address: str) -> None:
    assert f"cannot listen on {address}" in up_fails(tmp_path, "--address", address)


@pytest.mark.parametrize(
    ("config", "names"),
    [
        ("[compute\n", "line 1"),
        (b"\xff\xfe", "UTF-8"),
        ("[compute]\ncpu_ratio = 1\n", "cpu_ratio"),
        ('[compute]\ncpu_allocation_ratio = "x"\n', "compute.cpu_allocation_ratio"),
        ("[compute]\nreport_interval = 0\n", "compute.report_interval"),
        ("[compute]\nmax_concurrent_builds = 0\n", "compute.max_concurrent_builds"),
        ("[operations]\nlease = -1\n", "operations.lease"),
        ("[scheduler]\nmax_alternates = -1\n", "scheduler.max_alternates"),
        ('[network]\ntransit_cidr = "nonsense"\n', "network"),
        ('[network]\ndns_servers = ["nonsense"]\n', "network"),
        ("[network]\nmtu = 1\n", "network.mtu"),
        ("[token]\nexpiration = 0\n", "token.expiration"),
        ("no_section = 1\n", "no_section"),
    ],
)
def test_a_wrong_option_is_named(tmp_path: Path, config: str | bytes, names: str) -> None:
    """In this process: the file is read before anything begins."""
    file = tmp_path / "test.toml"
    file.write_bytes(config if isinstance(config, bytes) else config.encode())
    words = ["--state", str(tmp_path / "state"), "--config", str(file), "--driver", "fake"]
    result = CliRunner().invoke(up_command, words)
    assert result.exit_code == 1
    assert result.output.startswith(f"Error: {file}")
    assert names in result.output
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("config", "names"),
    [
        ('[scheduler]\nenabled_filters = ["NoSuchFilter"]\n', "NoSuchFilter"),
        ("[scheduler]\nweights = {NoSuchWeigher = 1.0}\n", "NoSuchWeigher"),
        ('[database]\nconnection = "nosuchdatabase://user:secret@h/db"\n', "[database] connection"),
    ],
)
def test_a_value_that_names_nothing(tmp_path: Path, config: str, names: str) -> None:
    said = up_fails(tmp_path, config=config)
    assert names in said
    assert "secret" not in said


def test_a_state_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    assert str(tmp_path / "state") in up_fails(tmp_path)
    assert "/proc/none" in up_fails(tmp_path, "--state", "/proc/none")


def test_a_database_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "kilonova.db").write_text("not a database, but long enough to look at" * 100)
    assert "kilonova.db" in up_fails(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_who_is_not_root_hears_what_libvirt_needs(tmp_path: Path) -> None:
    everybody = tmp_path / "everybody"
    everybody.mkdir(mode=0o777)
    pid = os.fork()
    if pid == 0:  # a child that has imported all it needs: others may not read the source's folder
        _as_nobody(everybody / "state", tmp_path / "said")
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 1
    said = (tmp_path / "said").read_text()
    assert "root" in said
    assert "--driver fake" in said
    assert "kilonova doctor" in said
    assert not (everybody / "state").exists()


def _as_nobody(state: Path, said: Path) -> None:
    with said.open("w") as file:
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        result = CliRunner().invoke(up_command, ["--state", str(state), "--port", "0"])
        file.write(result.output)
    os._exit(result.exit_code)


def test_the_state_is_its_owners_alone(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o755)
    for name in ("kilonova.db", "kilonova.log"):  # as an earlier version left them
        (state / name).touch(mode=0o644)
    up = Up(state).start()
    try:
        open_to_others = [
            path.name
            for path in state.iterdir()
            if path.is_file() and path.name != "test.toml" and path.stat().st_mode & 0o077
        ]
        assert open_to_others == []
        assert (state / "kilonova.db-wal").exists()
    finally:
        up.stop()


class Starting:
    """A `kilonova up` that was just started; what it says is not waited for."""

    def __init__(self, state: Path) -> None:
        words = ["up", "--state", str(state), "--port", "0", "--driver", "fake"]
        self.process = subprocess.Popen(
            [*KILONOVA, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def ends(self, within: float) -> tuple[int, str]:
        try:
            said, _ = self.process.communicate(timeout=within)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        return self.process.returncode, said


def is_locked(state: Path) -> bool:
    try:
        with (state / "lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


@pytest.mark.parametrize(
    "begun",
    [
        is_locked,
        lambda state: (state / "admin-password").exists(),
        lambda state: (state / "hosts").exists(),
    ],
    ids=["lock", "password", "hosts"],
)
def test_ctrl_c_while_it_starts(tmp_path: Path, begun: Callable[[Path], bool]) -> None:
    state = tmp_path / "state"
    starting = Starting(state)
    until(lambda: begun(state), 60, "the start to get there")
    starting.process.send_signal(signal.SIGINT)
    status, said = starting.ends(within=60)
    assert "Traceback" not in said
    assert status in (0, 130), said
    again = Up(state).start()
    assert again.ask("GET", "/compute/v2.1/servers")[0] == 200
    assert again.unexplained() == []
    assert again.stop() == 0


@pytest.mark.parametrize("method", ["ensure_base_image", "wait_for_running"])
def test_ctrl_c_while_a_server_is_built(tmp_path: Path, method: str) -> None:
    """Nobody waits for the build, and it is no failure: it goes on at the next start."""
    up = Up(tmp_path / "state").start(f"[fake]\nstep_seconds = {{{method} = 600.0}}\n")
    _, answer = up.post_server(up.image(b"\0" * 512))
    server_id = answer["server"]["id"]
    step = "fetch_image" if method == "ensure_base_image" else "commit"
    until(lambda: begun(up, step), 60, "the build to get there")
    began = time.monotonic()
    assert up.stop() == 0
    assert time.monotonic() - began < 60

    up.start()
    assert up.settled(server_id)["status"] == "ACTIVE"
    assert up.unexplained() == []
    assert up.stop() == 0


def begun(up: Up, step: str) -> bool:
    with up.database() as db:
        if step == "commit":
            return bool(db.execute("SELECT 1 FROM servers WHERE vm_state = 'active'").fetchone())
        return bool(db.execute("SELECT 1 FROM steps WHERE name = ?", [step]).fetchone())


@pytest.mark.parametrize("action", ["os-stop", "DELETE"])
def test_ctrl_c_while_something_is_done_to_a_server(tmp_path: Path, action: str) -> None:
    up = Up(tmp_path / "state").start("[fake]\nstep_seconds = {power_off = 600.0, destroy = 600.0}\n")
    _, answer = up.post_server(up.image(b"\0" * 512))
    path = f"/compute/v2.1/servers/{answer['server']['id']}"
    assert up.settled(answer["server"]["id"])["status"] == "ACTIVE"
    if action == "DELETE":
        assert up.ask("DELETE", path)[0] == 204
    else:
        assert up.ask("POST", f"{path}/action", {action: None})[0] == 202
    until(lambda: begun(up, "stop" if action == "os-stop" else "destroy"), 60, "it to begin")
    began = time.monotonic()
    assert up.stop() == 0
    assert time.monotonic() - began < 60

    up.start()
    status = up.settled(answer["server"]["id"])["status"]
    assert status == ("SHUTOFF" if action == "os-stop" else "GONE")
    assert up.unexplained() == []
    assert up.stop() == 0


def test_a_second_ctrl_c_does_not_wait(tmp_path: Path) -> None:
    up = Up(tmp_path / "state").start()
    address = up.url.removeprefix("http://").split(":")
    with socket.create_connection((address[0], int(address[1]))) as client:
        # A body that never comes: its thread is waited for, some seconds.
        client.sendall(b"POST /identity/v3/auth/tokens HTTP/1.1\r\nHost: h\r\nContent-Length: 99\r\n\r\n{")
        handle = os.pidfd_open(up.pid)
        os.kill(up.pid, signal.SIGINT)
        until(lambda: "stopping" in up.said, 60, "the stop to begin")
        assert not select.select([handle], [], [], 0)[0], "this test needs a stop that takes a while"
        assert up.stop() == 130
        os.close(handle)
    up.start()
    assert up.stop() == 0


def test_ready_is_one_line_with_what_one_needs(tmp_path: Path) -> None:
    up = Up(tmp_path / "state").start()
    try:
        openrc = (tmp_path / "state" / "openrc").read_text()
        clouds = (tmp_path / "state" / "clouds.yaml").read_text()
        assert re.search(rf"^export OS_AUTH_URL='{re.escape(up.url)}/identity'$", openrc, re.MULTILINE)
        assert f"auth_url: {up.url}/identity" in clouds
    finally:
        assert up.stop() == 0
