"""The services apart: what a message over RabbitMQ costs, and a build over four processes."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from tests.rabbit import Rabbit, installed
from tests.running import until
from tests.services import Services

from bench.figure import Figure
from bench.load import p50
from kilonova.bus.base import Bus
from kilonova.bus.local import LocalBus
from kilonova.bus.rabbit import RabbitBus
from kilonova.config import Bus as Options

_CALLS = 2000
_TEXT = "x" * 300


class Ask(msgspec.Struct):
    text: str


def _echo(ask: Ask) -> Ask:
    return ask


def calls() -> list[Figure]:
    figures = [Figure("a call in one process, p50", _call_p50(_in_process()), "ms")]
    if not installed():
        return figures
    with _broker() as rabbit:
        server = subprocess.Popen(
            [sys.executable, "-m", "bench.message_bus", rabbit.url], stdin=subprocess.PIPE
        )
        bus = RabbitBus(Options(url=rabbit.url))
        try:
            until(lambda: bus.connected(1) and _answers(bus), 30, "the server")
            figures.append(Figure("a call over RabbitMQ, p50", _call_p50(bus), "ms", at_most=1.5))
        finally:
            bus.close()
            server.communicate()
    return figures


def apart() -> list[Figure]:
    """Four processes, three fake hosts, SQLite between them."""
    if not installed():
        return []
    with _broker() as rabbit, tempfile.TemporaryDirectory(prefix="kilonova-bench-") as folder:
        services = Services(Path(folder) / "state", rabbit.url, "kilonova").start_all()
        try:
            image = services.image(b"\0" * 65536)
            taken = [_until_active(services, image) for _ in range(60)][10:]
        finally:
            services.close()
    return [Figure("POST → ACTIVE over RabbitMQ, p50", p50(taken), "ms", at_most=60)]


def _until_active(services: Services, image: str) -> float:
    began = time.perf_counter()
    server_id = services.post_server(image)[1]["server"]["id"]
    until(lambda: services.server(server_id)["status"] == "ACTIVE", 30, "ACTIVE")
    return time.perf_counter() - began


def _in_process() -> Bus:
    bus = LocalBus()
    bus.serve("conductor", {"echo": _echo})
    return bus


def _call_p50(bus: Bus) -> float:
    taken = []
    for _ in range(_CALLS):
        began = time.perf_counter()
        bus.call("conductor", "echo", Ask(_TEXT), Ask)
        taken.append(time.perf_counter() - began)
    return p50(taken)


def _answers(bus: Bus) -> bool:
    try:
        return bus.call("conductor", "echo", Ask(""), Ask, timeout=1) == Ask("")
    except Exception:  # noqa: BLE001 - it is not there yet, for whatever reason
        return False


@contextmanager
def _broker() -> Iterator[Rabbit]:
    with tempfile.TemporaryDirectory(prefix="kilonova-rabbit-") as folder:
        rabbit = Rabbit(Path(folder))
        try:
            yield rabbit.start()
        finally:
            rabbit.stop()


def _serve(url: str) -> None:
    """The other process: until its input ends."""
    bus = RabbitBus(Options(url=url))
    bus.serve("conductor", {"echo": _echo}, 4)
    sys.stdin.read()
    bus.close()


if __name__ == "__main__":
    _serve(sys.argv[1])
