"""A PostgreSQL of the tests' own: Debian's server, in a folder of its own, as a child of this process."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import IO

import psycopg
from psycopg import sql

_READY = "database system is ready to accept connections"
_PROGRAMS = Path("/usr/lib/postgresql")


class PostgreSQL:
    """``start`` and ``stop`` as often as wanted; ``url`` names a database of it. Reached by its UNIX socket.

    It writes to the disk as in production (fsync). It runs as ``postgres`` if we are root, which the server
    refuses to be, and ends when the thread that started it does.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="kilonova-pg-"))
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(self.folder, user.pw_uid, user.pw_gid)
        self._process: subprocess.Popen[str] | None = None
        self._log: threading.Thread | None = None
        self._run("initdb", "--no-sync", "--auth=trust", "--username=kilonova", "--encoding=UTF8", self._data)

    @property
    def _data(self) -> str:
        return str(self.folder / "data")

    def url(self, database: str = "postgres") -> str:
        return f"postgresql+psycopg://kilonova@/{database}?host={self.folder}"

    @property
    def pid(self) -> int:
        """Of the server, whose children serve the connections."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> PostgreSQL:
        """Returns when it takes connections."""
        settings = {"listen_addresses": "", "unix_socket_directories": str(self.folder)}
        options = [option for name, value in settings.items() for option in ("-c", f"{name}={value}")]
        command = self._command("postgres", "-D", self._data, *options)
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        output = self._process.stderr
        assert output is not None
        said = []
        for line in output:
            said.append(line)
            if _READY in line:
                self._log = threading.Thread(target=_drain, args=(output,), daemon=True)
                self._log.start()
                return self
        raise AssertionError(f"PostgreSQL did not start: {said}")

    def let_in(self, user: str, with_password: str) -> None:
        """From now on that user too may log in; only with the password."""
        with psycopg.connect(f"host={self.folder} user=kilonova dbname=postgres", autocommit=True) as conn:
            create = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}")
            conn.execute(create.format(sql.Identifier(user), with_password))
            rules = self.folder / "data" / "pg_hba.conf"
            rules.write_text(f"local all {user} scram-sha-256\n{rules.read_text()}")
            conn.execute("SELECT pg_reload_conf()")

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT: end what is open; SIGQUIT: end as by a crash, and recover at the next start."""
        if self._process is None:
            return
        self._process.send_signal(how)
        self._process.wait(60)
        assert self._log is not None
        self._log.join(10)
        self._process = None

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder)

    def _run(self, *command: str) -> None:
        done = subprocess.run(
            self._command(*command), check=False, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr

    def _command(self, program: str, *arguments: str) -> list[str]:
        command = [str(_programs() / program), *arguments]
        as_user = ["--reuid=postgres", "--regid=postgres", "--init-groups"] if os.geteuid() == 0 else []
        return ["setpriv", "--pdeathsig=INT", *as_user, *command]


def _programs() -> Path:
    """Of the newest version that is installed."""
    found = sorted(_PROGRAMS.glob("*/bin"), key=lambda folder: float(folder.parent.name))
    assert found, "PostgreSQL is not installed: tools/install-packages test"
    return found[-1]


def _drain(output: IO[str]) -> None:
    """Nobody reads on, but a full pipe would stop the server."""
    with output:
        for _ in output:
            pass
