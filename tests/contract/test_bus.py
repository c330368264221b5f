"""The contract of a bus, kept by the one in the process and the one over RabbitMQ alike."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import msgspec
import pytest
from tests.rabbit import Rabbit
from tests.running import until

from kilonova import log
from kilonova.bus.base import NOT_YET, Bus, Outcomes, quick, together
from kilonova.bus.local import LocalBus
from kilonova.bus.rabbit import RabbitBus
from kilonova.config import Bus as Options
from kilonova.domain.errors import BadRequest, Conflict, KilonovaError, StaleEpoch, Timeout, Unavailable

WAIT = 60.0
LONGER = (0.1, 1.0, 4.0, 16.0)
"""Seconds that a call is waited for, until it is not too short for it to be begun: nobody begins it later."""


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    text: str = ""
    number: int = 0


class Told(msgspec.Struct, frozen=True, kw_only=True):
    text: str


MakeBus = Callable[..., Bus]


@pytest.fixture(params=["local", "rabbit"])
def make_bus(request: pytest.FixtureRequest) -> Iterator[MakeBus]:
    """Buses that reach each other: of several processes, or the one of one process."""
    made: list[Any] = []
    exchange = f"kilonova-{uuid.uuid4()}"

    def local(**options: Any) -> Bus:
        if not made:
            made.append(LocalBus(**options))
        return made[0]

    def rabbit(**options: Any) -> Bus:
        broker: Rabbit = request.getfixturevalue("rabbit")
        made.append(RabbitBus(Options(url=broker.url, exchange=exchange), **options))
        assert made[-1].connected(WAIT), made[-1].problem
        return made[-1]

    yield local if request.param == "local" else rabbit
    for bus in reversed(made):
        bus.close()


def echo(ask: Ask) -> Told:
    return Told(text=ask.text)


def test_a_call_is_answered(make_bus: MakeBus) -> None:
    server, client = make_bus(), make_bus()
    server.serve("conductor", {"echo": echo})
    assert client.call("conductor", "echo", Ask(text="häß\0<&>'$(x)"), Told) == Told(text="häß\0<&>'$(x)")


def test_a_large_message_arrives_whole(make_bus: MakeBus) -> None:
    server, client = make_bus(), make_bus()
    server.serve("conductor", {"echo": echo})
    text = "0123456789" * 300_000
    assert client.call("conductor", "echo", Ask(text=text), Told).text == text


def test_the_error_of_a_handler_comes_back_as_it_was(make_bus: MakeBus) -> None:
    server, client = make_bus(), make_bus()

    def moved(ask: Ask) -> Told:
        raise StaleEpoch(ask.text, details={"epoch": 3})

    server.serve("conductor", {"moved": moved})
    with pytest.raises(StaleEpoch, match="it moved") as caught:
        client.call("conductor", "moved", Ask(text="it moved"), Told)
    assert caught.value.details == {"epoch": 3}
    assert isinstance(caught.value, Conflict)


def test_an_unexpected_error_tells_the_caller_nothing_of_the_inside(make_bus: MakeBus) -> None:
    server, client = make_bus(), make_bus()

    def breaks(_ask: Ask) -> Told:
        raise ValueError("/etc/passwd")

    server.serve("conductor", {"breaks": breaks, "echo": echo})
    with pytest.raises(KilonovaError) as caught:
        client.call("conductor", "breaks", Ask(), Told)
    assert type(caught.value) is KilonovaError
    assert "passwd" not in caught.value.message
    assert client.call("conductor", "echo", Ask(text="on"), Told).text == "on"


def test_a_call_that_nobody_serves_is_unavailable(make_bus: MakeBus) -> None:
    client = make_bus()
    with pytest.raises(Unavailable):
        client.call("conductor", "echo", Ask(), Told)


def test_a_cast_that_nobody_serves_is_lost_without_a_word(make_bus: MakeBus) -> None:
    make_bus().cast("conductor", "echo", Ask())


def test_a_call_of_what_is_no_method_is_refused(make_bus: MakeBus) -> None:
    server, client = make_bus(), make_bus()
    server.serve("conductor", {"echo": echo})
    with pytest.raises(BadRequest, match="no method"):
        client.call("conductor", "nonsense", Ask(), Told)
    with pytest.raises(BadRequest, match="understands"):
        client.call("conductor", "echo", _Wrong(), Told)


class _Wrong(msgspec.Struct):
    text: int = 3


def test_an_answer_of_another_kind_is_an_error(make_bus: MakeBus) -> None:
    server, client = make_bus(), make_bus()
    server.serve("conductor", {"echo": echo})
    with pytest.raises(KilonovaError, match="no _Wrong"):
        client.call("conductor", "echo", Ask(text="x"), _Wrong)


class Several:
    """A handler that says what it was given together, and holds up the first until the test lets it go."""

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.alone: list[str] = []
        self.crowds: list[list[str]] = []

    def handlers(self) -> dict[str, Any]:
        def one(ask: Ask) -> Told:
            self.alone.append(ask.text)
            self.begun.set()
            assert self.go_on.wait(WAIT)
            if ask.text == "bad alone":
                raise Conflict("bad")
            return Told(text=f"{ask.text}, alone")

        return {"say": together(one, self._several)}

    def _several(self, asked: list[Ask]) -> Outcomes:
        self.crowds.append([ask.text for ask in asked])
        if any(ask.text == "fails all" for ask in asked):
            raise Conflict("all of it")
        known = {"bad": Conflict("bad"), "later": NOT_YET}
        return [known.get(ask.text, Told(text=f"{ask.text}, together")) for ask in asked]

    def answers(
        self, client: Bus, topic: Any, texts: list[str], also: Callable[[], int] = lambda: 0
    ) -> list[str]:
        """What is answered to these, which all come while the first is worked on; ``also`` calls others
        meanwhile, and says how many."""

        def ask(text: str) -> str:
            try:
                return client.call("conductor", "say", Ask(text=text), Told).text
            except Conflict as error:
                return f"refused: {error.message}"

        with ThreadPoolExecutor(len(texts) + 1) as pool:
            first = pool.submit(ask, "first")
            assert self.begun.wait(WAIT)
            rest = [pool.submit(ask, text) for text in texts]
            if not isinstance(client, LocalBus):  # which has each answered by its own thread
                calls, count = topic._calls, len(texts) + also()
                until(lambda: len(calls._waiting) == count, WAIT, "all of them to wait")
            self.go_on.set()
            assert first.result(WAIT) == "first, alone"
            return [one.result(WAIT) for one in rest]


def test_each_of_those_that_wait_together_has_its_own_answer(make_bus: MakeBus) -> None:
    """Together or not: in one process each is answered for itself."""
    server, client = make_bus(), make_bus()
    several = Several()
    topic = server.serve("conductor", several.handlers(), workers=4)
    good, bad, later = several.answers(client, topic, ["good", "bad", "later"])
    if isinstance(server, LocalBus):
        assert (good, bad, later) == ("good, alone", "bad, alone", "later, alone")
        return
    assert (good, bad, later) == ("good, together", "refused: bad", "later, alone")
    assert sorted(several.crowds[0]) == ["bad", "good", "later"]
    assert several.alone == ["first", "later"]


def test_if_it_fails_for_all_each_is_done_alone(make_bus: MakeBus) -> None:
    server, client = make_bus(), make_bus()
    several = Several()
    topic = server.serve("conductor", several.handlers(), workers=4)
    texts = ["fails all", "good", "bad alone"]
    assert several.answers(client, topic, texts) == ["fails all, alone", "good, alone", "refused: bad"]


def test_one_thread_does_all_that_waits_together(make_bus: MakeBus) -> None:
    """Each method's by its own function; a damaged message among them is refused."""
    server, client = make_bus(), make_bus()
    several, others = Several(), Several()
    others.go_on.set()
    handlers = {**several.handlers(), "tell": others.handlers()["say"]}
    topic = server.serve("conductor", handlers, workers=4)
    with ThreadPoolExecutor(8) as pool:
        asked: list[Future[Told]] = []

        def tell() -> int:
            requests = [*(Ask(text=str(number)) for number in range(4)), _Wrong()]
            asked.extend(pool.submit(client.call, "conductor", "tell", one, Told) for one in requests)
            return len(asked)

        if isinstance(server, LocalBus):
            tell()
        assert several.answers(client, topic, ["a", "b"], tell)[0].startswith("a, ")
        *good, wrong = asked
        assert [one.result(WAIT).text[:2] for one in good] == ["0,", "1,", "2,", "3,"]
        with pytest.raises(BadRequest, match="understands"):
            wrong.result(WAIT)


def test_casts_that_wait_together(make_bus: MakeBus) -> None:
    server, client = make_bus(), make_bus()
    several = Several()
    topic: Any = server.serve("conductor", several.handlers(), workers=4)
    client.cast("conductor", "say", Ask(text="first"))
    assert several.begun.wait(WAIT)
    for number in range(20):
        client.cast("conductor", "say", Ask(text=str(number)))
    client.cast("conductor", "say", Ask(text="later"))
    if not isinstance(server, LocalBus):
        until(lambda: len(topic._casts._waiting) == 21, WAIT, "all of them to wait")
    several.go_on.set()
    until(lambda: "later" in several.alone, WAIT, "the last")
    if not isinstance(server, LocalBus):
        assert [text for crowd in several.crowds for text in crowd] == [*map(str, range(20)), "later"]
        assert several.alone == ["first", "later"]


def test_casts_are_worked_on_and_a_bad_one_stops_nothing(make_bus: MakeBus) -> None:
    server, client = make_bus(), make_bus()
    seen: list[int] = []
    all_seen = threading.Event()

    def note(ask: Ask) -> None:
        if ask.number % 7 == 3:
            raise ValueError(ask.number)
        seen.append(ask.number)
        if len(seen) == 86:
            all_seen.set()

    server.serve("conductor", {"note": note}, 3)
    for number in range(100):
        client.cast("conductor", "note", Ask(number=number))
    client.cast("conductor", "nonsense", Ask())
    assert all_seen.wait(WAIT), len(seen)
    assert sorted(seen) == [number for number in range(100) if number % 7 != 3]


def test_casts_of_a_quick_handler_are_worked_on_too(make_bus: MakeBus) -> None:
    server, client = make_bus(), make_bus()
    seen: list[int] = []
    all_seen = threading.Event()

    @quick
    def note(ask: Ask) -> None:
        if ask.number == 3:
            raise ValueError(ask.number)
        seen.append(ask.number)
        if len(seen) == 49:
            all_seen.set()

    server.serve("conductor", {"note": note, "echo": echo})
    for number in range(50):
        client.cast("conductor", "note", Ask(number=number))
    assert client.call("conductor", "echo", Ask(text="between"), Told).text == "between"
    assert all_seen.wait(WAIT), len(seen)
    assert seen == [number for number in range(50) if number != 3]


def test_what_is_told_comes_to_who_collects_or_else_to_who_serves(make_bus: MakeBus) -> None:
    server, client = make_bus(), make_bus()
    seen: list[int] = []
    all_seen = threading.Event()

    def note(ask: Ask) -> None:
        if ask.number == 3:
            raise ValueError(ask.number)
        seen.append(ask.number)
        if len(seen) == 99:
            all_seen.set()

    server.serve("conductor", {"note": note})
    for number in range(50):
        client.tell("conductor", "note", Ask(number=number))
    server.collect("conductor", {"note": note}, lambda: None)
    for number in range(50, 100):
        client.tell("conductor", "note", Ask(number=number))
    assert all_seen.wait(WAIT), len(seen)
    assert sorted(seen) == [number for number in range(100) if number != 3]


def test_a_topic_has_so_many_workers(make_bus: MakeBus) -> None:
    server, client = make_bus(), make_bus()
    together = threading.Barrier(3)
    most, now = [0], [0]
    lock = threading.Lock()
    done = threading.Semaphore(0)

    def work(_ask: Ask) -> None:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        together.wait(WAIT)
        with lock:
            now[0] -= 1
        done.release()

    server.serve("compute.h", {"work": work}, 3)
    for _ in range(9):
        client.cast("compute.h", "work", Ask())
    for _ in range(9):
        assert done.acquire(timeout=WAIT)
    assert most[0] == 3


def test_topics_may_share_a_pool(make_bus: MakeBus) -> None:
    server = make_bus(pools={"compute": 2})
    client = make_bus(pools={})
    threads: set[str] = set()
    done = threading.Semaphore(0)

    def work(host: str, ask: Ask) -> None:
        threads.add(threading.current_thread().name)
        assert ask.text == host
        done.release()

    for number in range(20):
        server.serve(f"compute.h{number}", {"work": partial(work, f"h{number}")}, "compute")
    for number in range(20):
        client.cast(f"compute.h{number}", "work", Ask(text=f"h{number}"))
    for _ in range(20):
        assert done.acquire(timeout=WAIT)
    assert len(threads) <= 2


def test_a_call_is_answered_while_every_worker_is_busy(make_bus: MakeBus) -> None:
    server, client = make_bus(), make_bus()
    begun, end = threading.Semaphore(0), threading.Event()

    def work(_ask: Ask) -> None:
        begun.release()
        end.wait(WAIT)

    server.serve("compute.h", {"work": work, "echo": echo}, 2)
    for _ in range(6):
        client.cast("compute.h", "work", Ask())
    for _ in range(2):
        assert begun.acquire(timeout=WAIT)
    assert client.call("compute.h", "echo", Ask(text="console"), Told, timeout=WAIT).text == "console"
    end.set()


def test_a_topic_may_take_casts_alone(make_bus: MakeBus) -> None:
    server, client = make_bus(), make_bus()
    came = threading.Event()

    def work(_ask: Ask) -> None:
        came.set()

    served = server.serve("build.compute.h", {"work": work}, 2, calls=False)
    client.cast("build.compute.h", "work", Ask())
    assert came.wait(WAIT)
    with pytest.raises(Unavailable, match=r"nobody serves build\.compute\.h"):
        client.call("build.compute.h", "work", Ask(), Told)
    served.close()
    came.clear()
    server.serve("build.compute.h", {"work": work}, 2, calls=False)
    client.cast("build.compute.h", "work", Ask())
    assert came.wait(WAIT)


def test_a_pool_that_is_full_holds_up_no_other_topic(make_bus: MakeBus) -> None:
    """Nor is what waits for it taken from where it can be had again: it is done when there is a place."""
    server, client = make_bus(pools={"short": 2, "long": 2}), make_bus(pools={})
    end, short = threading.Event(), threading.Event()
    begun, done = threading.Semaphore(0), threading.Semaphore(0)

    def build(_ask: Ask) -> None:
        begun.release()
        end.wait(WAIT)
        done.release()

    def stop(_ask: Ask) -> None:
        short.set()

    server.serve("build.compute.h", {"build": build}, "long", calls=False)
    server.serve("compute.h", {"stop": stop}, "short")
    for _ in range(20):
        client.cast("build.compute.h", "build", Ask())
    for _ in range(2):
        assert begun.acquire(timeout=WAIT)
    client.cast("compute.h", "stop", Ask())
    assert short.wait(WAIT)
    assert not begun.acquire(blocking=False)
    end.set()
    for _ in range(20):
        assert done.acquire(timeout=WAIT)


def test_who_calls_waits_no_longer_than_it_said(make_bus: MakeBus) -> None:
    server, client = make_bus(), make_bus()
    begun, end, ended = threading.Event(), threading.Event(), threading.Event()

    def slow(ask: Ask) -> Told:
        begun.set()
        end.wait(WAIT)
        ended.set()
        return Told(text=ask.text)

    server.serve("compute.h", {"slow": slow, "echo": echo}, 8)
    for seconds in LONGER:
        with pytest.raises(Timeout, match=r"compute\.h"):
            client.call("compute.h", "slow", Ask(), Told, timeout=seconds)
        if begun.is_set():
            break
    assert begun.is_set()
    assert client.call("compute.h", "echo", Ask(text="others"), Told, timeout=WAIT).text == "others"
    assert not ended.is_set()
    end.set()
    assert ended.wait(WAIT), "what was begun goes on"


def test_a_handler_may_ask_on(make_bus: MakeBus) -> None:
    server, client = make_bus(), make_bus()

    def select(ask: Ask) -> Told:
        return Told(text=ask.text + "!")

    def build(ask: Ask) -> Told:
        return server.call("scheduler", "select", ask, Told)

    server.serve("scheduler", {"select": select})
    server.serve("conductor", {"build": build})
    assert client.call("conductor", "build", Ask(text="host"), Told).text == "host!"


def test_many_calls_at_once_get_each_its_own_answer(make_bus: MakeBus) -> None:
    server, client = make_bus(), make_bus()
    server.serve("conductor", {"echo": echo}, 4)

    def ask(number: int) -> str:
        return client.call("conductor", "echo", Ask(text=str(number)), Told).text

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(ask, range(500))) == [str(number) for number in range(500)]


def test_the_request_id_goes_along(make_bus: MakeBus) -> None:
    server, client = make_bus(), make_bus()
    cast_with: list[str] = []
    came = threading.Event()

    def note(_ask: Ask) -> None:
        cast_with.append(log.current().get("request_id", ""))
        came.set()

    def who(_ask: Ask) -> Told:
        return Told(text=log.current().get("request_id", ""))

    server.serve("conductor", {"note": note, "who": who})
    with log.bound(request_id="req-1"):
        assert client.call("conductor", "who", Ask(), Told).text == "req-1"
        client.cast("conductor", "note", Ask())
    assert came.wait(WAIT)
    assert cast_with == ["req-1"]


def test_close_waits_for_what_is_under_way(make_bus: MakeBus) -> None:
    server, client = make_bus(), make_bus()
    begun, end, ended = threading.Event(), threading.Event(), threading.Event()

    def work(_ask: Ask) -> None:
        begun.set()
        end.wait(WAIT)
        ended.set()

    subscription = server.serve("compute.h", {"work": work}, 1)
    client.cast("compute.h", "work", Ask())
    assert begun.wait(WAIT)
    closing = threading.Thread(target=subscription.close)
    closing.start()
    closing.join(0.3)
    assert closing.is_alive()
    end.set()
    closing.join(WAIT)
    assert not closing.is_alive()
    assert ended.is_set()
    subscription.close()
    with pytest.raises(Unavailable):
        client.call("compute.h", "echo", Ask(), Told, timeout=1)


def test_a_topic_may_be_served_again(make_bus: MakeBus) -> None:
    server, client = make_bus(), make_bus()
    for text in ("first", "second"):
        subscription = server.serve("conductor", {"echo": echo})
        assert client.call("conductor", "echo", Ask(text=text), Told).text == text
        subscription.close()
