"""What a process tells of itself, and who waits for it."""

from __future__ import annotations

import socket
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

from kilonova import metrics
from kilonova.config import Monitoring, address_and_port
from kilonova.domain.errors import BadRequest, Timeout, Unavailable
from kilonova.monitoring.gauges import Gauges
from kilonova.monitoring.health import Health, State
from kilonova.monitoring.listener import Listener
from kilonova.monitoring.page import Page
from kilonova.monitoring.question import Question
from kilonova.monitoring.watch import Watch


def test_ready_is_started_and_all_parts_up() -> None:
    health = Health("api", ("database", "bus"))
    assert health.report(reasons=False) == (
        False,
        {
            "service": "api",
            "ready": False,
            "state": "starting",
            "parts": {"database": "down", "bus": "down"},
        },
    )
    health.watch("database", lambda: None)
    health.watch("bus", lambda: None)
    assert not health.report(reasons=True)[0]
    health.state = State.READY
    assert health.report(reasons=True)[0]
    health.state = State.STOPPING
    assert not health.report(reasons=True)[0]


def test_what_is_away_is_named() -> None:
    def away() -> None:
        raise Unavailable("the broker is away")

    def broken() -> None:
        raise ZeroDivisionError

    health = Health("conductor", ("database", "bus"))
    health.state = State.READY
    health.watch("bus", away)
    health.watch("database", broken)
    ready, shown = health.report(reasons=True)
    assert not ready
    assert shown["parts"] == {"bus": "down", "database": "down"}
    assert shown["problems"] == {"bus": "the broker is away", "database": "ZeroDivisionError: "}


def test_what_a_process_can_do_without_is_shown_and_decides_nothing() -> None:
    def away() -> None:
        raise Unavailable("the broker is away")

    health = Health("api", ("database",))
    health.state = State.READY
    health.watch("database", lambda: None)
    health.watch("bus", away)
    ready, shown = health.report(reasons=True)
    assert ready
    assert shown["parts"] == {"database": "up", "bus": "down"}
    assert shown["problems"] == {"bus": "the broker is away"}


def test_parts_that_hang_are_waited_for_together_and_counted_as_down() -> None:
    go_on = threading.Event()

    def hang() -> None:
        assert go_on.wait(60)

    watch = Watch("compute", ("bus", "hypervisor"), Monitoring(listen="127.0.0.1:0"))
    watch.health.state = State.READY
    watch.health.watch("bus", hang)
    watch.health.watch("hypervisor", hang)
    began = time.monotonic()
    page = watch.ready(reasons=True)
    assert time.monotonic() - began < 50
    assert page.status == 503
    numbers = watch.metrics().body.decode()
    for part in ("bus", "hypervisor"):
        assert f'kilonova_part_up{{part="{part}"}} 0.0' in numbers
    go_on.set()
    assert watch.ready(reasons=True).status == 200
    assert 'kilonova_part_up{part="hypervisor"} 1.0' in watch.metrics().body.decode()


def test_a_question_that_hangs_keeps_nobody_and_is_asked_once() -> None:
    go_on, asked = threading.Event(), []

    def hang() -> int:
        asked.append(1)
        assert go_on.wait(60)
        return 7

    question = Question(hang)
    for _ in range(3):
        with pytest.raises(Timeout, match="no answer within"):
            question.answer(0.01)
    go_on.set()
    assert question.answer(60) == 7
    assert asked == [1]
    assert question.answer(60) == 7
    assert asked == [1, 1]


def test_a_question_that_times_out_by_itself() -> None:
    def late() -> None:
        raise TimeoutError("the disk")

    with pytest.raises(TimeoutError, match="the disk"):
        Question(late).answer(30)


def test_the_listener() -> None:
    listener = Listener("127.0.0.1", 0, {"/page": lambda: Page(200, "text/plain", b"here\n")})
    try:
        with urllib.request.urlopen(f"{listener.url}/page?q", timeout=30) as answer:
            assert (answer.read(), answer.headers["Content-Type"]) == (b"here\n", "text/plain")
        port = int(listener.url.rpartition(":")[2])
        with pytest.raises(BadRequest, match="in use"):
            Listener("127.0.0.1", port, {})
        with socket.create_connection(("127.0.0.1", port), timeout=30) as raw:
            raw.sendall(b"HEAD /page HTTP/1.0\r\n\r\n")
            assert raw.makefile("rb").read().endswith(b"\r\n\r\n")
    finally:
        listener.close()


def test_metrics_count_nothing_before_they_are_enabled_and_all_after() -> None:
    counter = metrics.Counter("test_things", "Things.", ("kind",))
    timed = metrics.Histogram("test_seconds", "Time.", bounds=(0.1, 1.0))
    registry = metrics.enable()
    counter.add("a", amount=2)
    timed.observe(0.5)
    later = metrics.Counter("test_later", "Declared when others were read already.")
    later.add()
    with ThreadPoolExecutor(4) as pool:
        for _ in range(1000):
            pool.submit(counter.add, "b")
    assert metrics.enable() is registry
    assert registry.get_sample_value("kilonova_test_things_total", {"kind": "a"}) == 2
    assert registry.get_sample_value("kilonova_test_things_total", {"kind": "b"}) == 1000
    assert registry.get_sample_value("kilonova_test_seconds_bucket", {"le": "0.1"}) == 0
    assert registry.get_sample_value("kilonova_test_seconds_bucket", {"le": "1.0"}) == 1
    assert registry.get_sample_value("kilonova_test_later_total") == 1


def test_a_number_that_cannot_be_read_is_left_out() -> None:
    def away() -> dict[tuple[str, ...], float]:
        raise Unavailable("no database")

    gauges = Gauges("test")
    gauges.add("test_away", "Not there.", ["kind"], away)
    gauges.add("test_here", "There.", ["kind"], lambda: {("a",): 3})
    text = gauges.page().body.decode()
    assert 'kilonova_test_here{kind="a"} 3.0' in text
    assert "test_away" not in text


@pytest.mark.parametrize("text", ["9464", "host:9464", "127.0.0.1", "127.0.0.1:", "127.0.0.1:70000", ":1"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match=r"address|appear"):
        Monitoring(listen=text)


def test_addresses() -> None:
    assert address_and_port("127.0.0.1:9464") == ("127.0.0.1", 9464)
    assert address_and_port("[::1]:0") == ("::1", 0)
