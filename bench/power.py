"""How soon the API shows that a guest is off: one that powered itself off, and one whose QEMU was killed."""

from __future__ import annotations

import base64
import os
import signal
import time
from pathlib import Path
from statistics import median
from typing import Any

from tests.running import Up, until

from bench.cloud import FLAVOR, cloud
from bench.figure import Figure

_GUEST = Path("build/guest.qcow2")
_ROUNDS = 3
_PROMISED = 2
"""Seconds."""
_PATIENCE = 180.0
_OFF = base64.b64encode(b"#!/bin/sh\npoweroff -f\n").decode()


def power() -> list[Figure]:
    with cloud("libvirt", 1) as up:
        image = up.image(_GUEST.read_bytes(), "qcow2")
        off = [_of_a_guest_that_goes_off(up, image) for _ in range(_ROUNDS)]
        killed = [_of_a_qemu_that_is_killed(up, image) for _ in range(_ROUNDS)]
    return [
        _figure("a guest powers itself off, until SHUTOFF", off),
        _figure("a QEMU is killed, until SHUTOFF", killed),
    ]


def _figure(name: str, taken: list[float]) -> Figure:
    return Figure(name, max(taken), "s", _PROMISED, note=f"median {median(taken):.2f}")


def _of_a_guest_that_goes_off(up: Up, image: str) -> float:
    """From the last word of its kernel."""
    server = _active(up, image, config_drive=True, user_data=_OFF)
    (console,) = up.state.glob(f"hosts/*/instances/{server}/console.log")
    until(lambda: "Power down" in console.read_text(errors="replace"), _PATIENCE, "the guest to go off")
    return _until_shutoff(up, server)


def _of_a_qemu_that_is_killed(up: Up, image: str) -> float:
    server = _active(up, image)
    (pid,) = up.state.glob(f"hosts/*/embed/run/qemu/instance-{server}.pid")
    os.kill(int(pid.read_text()), signal.SIGKILL)
    return _until_shutoff(up, server)


def _active(up: Up, image: str, **more: Any) -> str:
    status, answer = up.post_server(image, flavorRef=FLAVOR, **more)
    assert status == 202, answer
    server = up.settled(answer["server"]["id"])
    assert server["status"] == "ACTIVE", server
    return str(server["id"])


def _until_shutoff(up: Up, server: str) -> float:
    """Seconds; the server is gone then."""
    began = time.perf_counter()
    until(lambda: up.server(server)["status"] == "SHUTOFF", _PATIENCE, "SHUTOFF")
    taken = time.perf_counter() - began
    assert up.ask("DELETE", f"/compute/v2.1/servers/{server}")[0] == 204
    until(lambda: up.server(server) is None, _PATIENCE, "the server to go")
    return taken
