"""Flows into a bridge and the look whether they are there, by ovs-ofctl: OpenFlow's own client.

There is no OpenFlow library for plain threads (os-ken is one of eventlet), and a bundle is one atomic change.
What ovs-ofctl prints is never read as state: it compares flows by itself, and only its verdict counts.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from kilonova.domain.errors import BuildFailed, Unavailable

_TIMEOUT = 10
_NOT_REACHED = (b"failed to connect", b": connecting to ")
"""What ovs-ofctl says when nobody listens."""


class Refused(BuildFailed):
    """The switch, or ovs-ofctl, does not take these flows; nothing of them was done."""


def change(control: Path, commands: list[str]) -> None:
    """All of it at once: ``add FLOW``, ``delete MATCH`` and ``delete_strict``, in ovs-ofctl(8)'s words.

    Refused if it is not taken; BuildFailed if there is no telling; Unavailable if nobody answers."""
    if not commands:
        return
    text = "".join(f"{line}\n" for line in commands)
    # Ports are numbers here. Otherwise it asks the switch for the names of all that there are, each time.
    _run(["--no-names", "--bundle", "add-flows", f"unix:{control}", "-"], control, text.encode())


def forget_connections(control: Path, zone: int) -> None:
    """The switch tracks none in that zone: its own, or the kernel's, whichever it uses."""
    _run(["ct-flush-zone", f"unix:{control}", str(zone)], control)


def are(control: Path, cookies: str, flows: list[str]) -> bool:
    """Whether the flows with these cookies (value/mask) are exactly those."""
    listed = ["--no-names", "--no-stats", "dump-flows", f"unix:{control}", f"cookie={cookies}"]
    present = _run(listed, control)
    files = [_file(present), _file("".join(f"{flow}\n" for flow in flows).encode())]
    try:
        done = _start(["diff-flows", *(f"/proc/self/fd/{file}" for file in files)], pass_fds=files)
    finally:
        for file in files:
            os.close(file)
    if done.returncode not in (0, 2):
        raise BuildFailed(f"ovs-ofctl: {_reason(done)}")
    return done.returncode == 0


def _file(content: bytes) -> int:
    file = os.memfd_create("flows")
    with open(file, "wb", closefd=False) as whole:
        whole.write(content)
    os.lseek(file, 0, os.SEEK_SET)
    return file


def _run(arguments: list[str], control: Path, text: bytes = b"") -> bytes:
    done = _start(arguments, text)
    if done.returncode:
        if not control.exists() or any(words in done.stderr for words in _NOT_REACHED):
            raise Unavailable(f"Open vSwitch does not answer at {control}: does ovs-vswitchd run?")
        raise Refused(f"ovs-ofctl: {_reason(done)}")
    return done.stdout


def _start(
    arguments: list[str], text: bytes = b"", pass_fds: list[int] | None = None
) -> subprocess.CompletedProcess[bytes]:
    command = ["ovs-ofctl", *arguments]
    try:
        return subprocess.run(
            command, input=text, capture_output=True, timeout=_TIMEOUT, check=False, pass_fds=pass_fds or ()
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildFailed(f"ovs-ofctl: {error}") from error


def _reason(done: subprocess.CompletedProcess[bytes]) -> str:
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"exit {done.returncode}"
