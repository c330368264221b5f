"""What the bus over RabbitMQ does besides the contract: a broker that goes, strangers, secrets, limits."""

from __future__ import annotations

import datetime
import ipaddress
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import amqp
import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.rabbit import PASSWORD, Rabbit
from tests.running import until

from kilonova.bus.base import sealed
from kilonova.bus.rabbit import RabbitBus, deliveries, requests
from kilonova.config import Bus as Options
from kilonova.domain.errors import BadRequest, Forbidden, Timeout, Unavailable

WAIT = 60.0


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    host: str = ""


class Told(msgspec.Struct, frozen=True, kw_only=True):
    host: str


def echo(ask: Ask) -> Told:
    return Told(host=ask.host)


class Made:
    """Makes buses on one exchange, and closes them."""

    def __init__(self, rabbit: Rabbit, exchange: str) -> None:
        self.rabbit = rabbit
        self.exchange = exchange
        self._buses: list[RabbitBus] = []

    def bus(self, user: str = "kilonova", **options: Any) -> RabbitBus:
        options = {"url": self.rabbit.url_of(user), "exchange": self.exchange} | options
        self._buses.append(RabbitBus(Options(**options)))
        return self._buses[-1]

    def up(self, user: str = "kilonova", **options: Any) -> RabbitBus:
        bus = self.bus(user, **options)
        assert bus.connected(WAIT), bus.problem
        return bus

    def channel(self) -> Any:
        """A client of another make, at the same broker."""
        connection = amqp.Connection(f"127.0.0.1:{self.rabbit.port}", "kilonova", PASSWORD)
        connection.connect()
        return connection.channel()

    def close(self) -> None:
        for bus in self._buses:
            bus.close()


@pytest.fixture
def made(rabbit: Rabbit) -> Iterator[Made]:
    made = Made(rabbit, f"kilonova-{uuid.uuid4()}")
    yield made
    made.close()


@pytest.mark.parametrize(
    "url", ["localhost", "http://h/", "amqp://", "amqp://h:x/", "amqp://h:99999/", "amqp://user:secret@"]
)
def test_an_address_that_is_none_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(BadRequest) as caught:
        RabbitBus(Options(url=url))
    assert "secret" not in caught.value.message


def test_a_broker_that_is_not_there_is_said_to_be_away_soon() -> None:
    bus = RabbitBus(Options(url="amqp://kilonova:very-secret@127.0.0.1:1/"))
    started = time.monotonic()
    bus.cast("conductor", "echo", Ask())
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1") as caught:
        bus.call("conductor", "echo", Ask(), Told)
    assert time.monotonic() - started < 50
    assert "very-secret" not in caught.value.message
    until(lambda: bus.lost_casts == 1, 60, "the cast to be given up")
    bus.close()


def test_who_casts_waits_for_no_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "PATIENCE", 60.0)
    bus = RabbitBus(Options(url="amqp://kilonova:very-secret@127.0.0.1:1/"))
    started = time.monotonic()
    bus.cast("conductor", "echo", Ask())
    assert time.monotonic() - started < 50
    assert bus.lost_casts == 0
    bus.close()
    assert bus.lost_casts == 1


def test_a_wrong_password_is_named(made: Made) -> None:
    bus = made.bus(url=made.rabbit.url.replace(PASSWORD, "wrong"))
    until(lambda: "ACCESS_REFUSED" in bus.problem, WAIT, "the refusal")
    assert not bus.connected(0)


def test_one_broker_of_a_cluster_is_enough(made: Made) -> None:
    bus = made.up(url=f"amqp://kilonova:{PASSWORD}@127.0.0.1:1/,{made.rabbit.url}")
    bus.serve("conductor", {"echo": echo})
    assert bus.call("conductor", "echo", Ask(host="h"), Told).host == "h"


def test_a_call_that_is_not_answered_in_time(made: Made) -> None:
    server, client = made.up(), made.up()
    begun, end, done = threading.Event(), threading.Event(), threading.Event()

    def slow(ask: Ask) -> Told:
        if ask.host == "slow":
            begun.set()
            end.wait(WAIT)
            done.set()
        return Told(host=ask.host)

    server.serve("conductor", {"slow": slow}, 8)
    for seconds in (0.2, 1.0, 4.0, 16.0):  # what is too short for it to be begun is lost
        with pytest.raises(Timeout, match=f"{seconds:g} seconds"):
            client.call("conductor", "slow", Ask(host="slow"), Told, timeout=seconds)
        if begun.is_set():
            break
    end.set()
    assert done.wait(WAIT)
    assert client.call("conductor", "slow", Ask(host="fast"), Told).host == "fast"


def test_two_servers_share_a_topic(made: Made) -> None:
    client = made.up()
    servers = [made.up(), made.up()]
    meet = threading.Barrier(3)

    def wait(_ask: Ask) -> None:
        meet.wait(WAIT)

    for server in servers:
        server.serve("conductor", {"wait": wait}, 1)
    client.cast("conductor", "wait", Ask())
    client.cast("conductor", "wait", Ask())
    meet.wait(WAIT)


def test_a_slow_worker_is_not_buried(made: Made) -> None:
    """What it does not work on stays at the broker, and goes back when the worker stops."""
    server, client = made.up(), made.up()
    begun, end = threading.Semaphore(0), threading.Event()
    worked: list[str] = []

    def work(ask: Ask) -> None:
        begun.release()
        end.wait(WAIT)
        worked.append(ask.host)

    subscription = server.serve("compute.h", {"work": work}, 2)
    for number in range(20):
        client.cast("compute.h", "work", Ask(host=str(number)))
    for _ in range(2):
        assert begun.acquire(timeout=WAIT)
    channel = made.channel()
    queue = f"{made.exchange}.compute.h"
    count = lambda: channel.queue_declare(queue, passive=True).message_count  # noqa: E731
    until(lambda: count() == 18, WAIT, "the rest to wait")
    closing = threading.Thread(target=subscription.close)
    closing.start()
    end.set()
    closing.join(WAIT)
    until(lambda: count() + len(worked) == 20, WAIT, "the rest to go back")

    server.serve("compute.h", {"work": work}, 2)
    until(lambda: len(worked) == 20, WAIT, "all of it to be done")
    assert sorted(worked, key=int) == [str(number) for number in range(20)]
    channel.connection.close()


def test_what_nobody_can_read_is_set_aside_and_counted(made: Made) -> None:
    server = made.up()
    server.serve("conductor", {"echo": echo})
    channel = made.channel()
    good = sealed("echo", Ask())
    messages = [
        amqp.Message(b"\xff\x00 no message", user_id="kilonova"),
        amqp.Message("text", user_id="kilonova", content_encoding="utf-8"),
        amqp.Message(sealed("nonsense", Ask()), user_id="kilonova"),
        amqp.Message(good),
    ]
    for message in messages:
        channel.basic_publish(message, made.exchange, "conductor")
    until(lambda: server.unreadable == 4, WAIT, "them to be set aside")
    kept = [channel.basic_get(f"{made.exchange}.unreadable", no_ack=True) for _ in messages]
    reasons = " | ".join(message.headers["reason"] for message in kept)
    assert "no method 'nonsense'" in reasons
    assert "does not say who sent it" in reasons
    assert {message.headers["key"] for message in kept} == {"conductor"}
    assert good in [message.body for message in kept]
    assert server.call("conductor", "echo", Ask(host="h"), Told).host == "h"
    channel.connection.close()


def test_a_flood_of_what_nobody_can_read_is_counted_but_not_kept(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any host may put something into any queue: setting it aside must cost little, and not fill the disk."""
    monkeypatch.setattr(deliveries, "_KEPT_A_MINUTE", 5)
    server = made.up()
    server.serve("conductor", {"echo": echo})
    channel = made.channel()
    for _ in range(40):
        message = amqp.Message(b"\xff" * 100_000, user_id="kilonova")
        channel.basic_publish(message, "", f"{made.exchange}.conductor")
    until(lambda: server.unreadable == 40, WAIT, "them to be set aside")
    assert server.call("conductor", "echo", Ask(host="h"), Told).host == "h"
    _, kept, _ = channel.queue_declare(f"{made.exchange}.unreadable", passive=True)
    assert 5 <= kept <= 10, "of one minute, or of two"
    one = channel.basic_get(f"{made.exchange}.unreadable", no_ack=True)
    assert len(one.body) < 100_000
    assert int(one.properties["expiration"]) > 0
    channel.connection.close()


def test_a_queue_that_nobody_empties_has_an_end(rabbit: Rabbit) -> None:
    """By the policy of `kilonova cluster init`."""
    made = Made(rabbit, "kilonova")
    made.up().serve("compute.h9", {"echo": echo})
    made.close()
    channel = made.channel()
    for _ in range(20):
        channel.basic_publish(amqp.Message(b"\0" * (4 << 20)), "", "kilonova.compute.h9")

    def waiting() -> int:
        return int(channel.queue_declare("kilonova.compute.h9", passive=True).message_count)

    channel.confirm_select()
    channel.basic_publish_confirm(amqp.Message(b""), "", "kilonova.compute.h9")
    assert 10 <= waiting() < 20
    channel.queue_delete("kilonova.compute.h9")
    channel.connection.close()


def test_an_answer_goes_to_a_direct_reply_alone(made: Made) -> None:
    """Nobody makes a conductor send things to a queue of their choice."""
    server = made.up()
    server.serve("conductor", {"echo": echo})
    channel = made.channel()
    mine, _, _ = channel.queue_declare("", exclusive=True)
    message = amqp.Message(sealed("echo", Ask()), user_id="kilonova", reply_to=mine, correlation_id="1")
    channel.basic_publish(message, made.exchange, "call.conductor")
    assert server.call("conductor", "echo", Ask(host="h"), Told).host == "h"
    assert channel.basic_get(mine) is None
    channel.connection.close()


def test_the_user_of_a_host_speaks_for_that_host_alone(rabbit: Rabbit) -> None:
    """With the rights that docs/how-to/run-services-apart.md gives it."""
    made = Made(rabbit, "kilonova")
    control = made.up()
    for topic in ("conductor", "scheduler", "compute.h2"):
        control.serve(topic, {"echo": echo})
    host = made.up("compute.h1")
    host.serve("compute.h1", {"echo": echo})
    built = threading.Event()

    def build(_ask: Ask) -> None:
        built.set()

    host.serve("build.compute.h1", {"build": build}, calls=False)
    control.cast("build.compute.h1", "build", Ask())
    assert built.wait(WAIT)
    assert host.call("conductor", "echo", Ask(host="h1"), Told).host == "h1"
    assert control.call("compute.h1", "echo", Ask(host="x"), Told).host == "x"
    with pytest.raises(Forbidden):
        host.call("conductor", "echo", Ask(host="h2"), Told)
    with pytest.raises(BadRequest):  # and it may not keep what it cannot read
        control.call("compute.h1", "nonsense", Ask(), Told)
    assert control.call("compute.h1", "echo", Ask(host="x"), Told).host == "x"
    for topic in ("scheduler", "compute.h2"):
        with pytest.raises(Unavailable):  # the broker does not let it through
            host.call(topic, "echo", Ask(host="h1"), Told)
        assert host.connected(WAIT)
    assert control.unreadable == 1
    made.close()


def test_queues_that_somebody_deletes_are_made_anew(made: Made) -> None:
    server, client = made.up(), made.up()
    server.serve("conductor", {"echo": echo})
    channel = made.channel()
    for key in ("conductor", "call.conductor"):
        channel.queue_delete(f"{made.exchange}.{key}")
    until(lambda: _answers(client), WAIT, "calls to be answered")
    channel.connection.close()


def test_a_broker_that_goes_and_comes_back(made: Made) -> None:
    server, client = made.up(), made.up()
    came = threading.Semaphore(0)

    def note(_ask: Ask) -> None:
        came.release()

    server.serve("conductor", {"echo": echo, "note": note})
    made.rabbit.stop()
    try:
        started = time.monotonic()
        client.cast("conductor", "note", Ask())
        with pytest.raises(Unavailable):
            client.call("conductor", "echo", Ask(), Told)
        assert time.monotonic() - started < 50
        until(lambda: client.lost_casts == 1, 60, "the cast to be given up")
    finally:
        made.rabbit.start()
    assert client.connected(WAIT)
    assert server.connected(WAIT)
    assert client.call("conductor", "echo", Ask(host="again"), Told).host == "again"
    client.cast("conductor", "note", Ask())
    assert came.acquire(timeout=WAIT)


def test_a_broker_that_freezes(made: Made) -> None:
    server, client = made.up(heartbeat=1), made.up(heartbeat=1)
    server.serve("conductor", {"echo": echo})
    made.rabbit.freeze()
    try:
        with pytest.raises(Unavailable):
            client.call("conductor", "echo", Ask(), Told, timeout=1)
        until(lambda: not client.connected(0), WAIT, "the silence to be noticed")
    finally:
        made.rabbit.thaw()
    assert client.connected(WAIT)
    until(lambda: server.connected(0), WAIT, "the server to come back")
    until(lambda: _answers(client), WAIT, "calls to be answered")


def _answers(client: RabbitBus) -> bool:
    try:
        return client.call("conductor", "echo", Ask(host="h"), Told, timeout=2).host == "h"
    except Unavailable:
        return False


def test_with_tls_both_sides_show_who_they_are(tmp_path: Path) -> None:
    ca_key, ca = _certificate("ca")
    files: dict[str, Path] = {}
    for name in ("broker", "client"):
        key, certificate = _certificate(name, ca, ca_key)
        files |= {f"{name}.key": tmp_path / f"{name}.key", f"{name}.crt": tmp_path / f"{name}.crt"}
        files[f"{name}.key"].write_bytes(_pem(key))
        files[f"{name}.crt"].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files["ca"] = tmp_path / "ca.crt"
    files["ca"].write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    rabbit = Rabbit(tmp_path / "rabbit")
    rabbit.trust(files["ca"], files["broker.crt"], files["broker.key"])
    made = Made(rabbit.start(), "kilonova")
    try:
        url = f"amqps://kilonova:{PASSWORD}@localhost:{rabbit.tls_port}/"
        own = {"ssl_cert_file": str(files["client.crt"]), "ssl_key_file": str(files["client.key"])}
        bus = made.up(url=url, ssl_ca_file=str(files["ca"]), **own)
        bus.serve("conductor", {"echo": echo}, 4)
        for number in range(200):
            assert bus.call("conductor", "echo", Ask(host=str(number)), Told).host == str(number)
        text = "x" * 3_000_000
        assert bus.call("conductor", "echo", Ask(host=text), Told).host == text
        # Whoever the system does not trust, and a client without a certificate, get nowhere.
        strangers = [made.bus(url=url, **own), made.bus(url=url, ssl_ca_file=str(files["ca"]))]
        until(lambda: "CERTIFICATE_VERIFY_FAILED" in strangers[0].problem, WAIT, "the refusal")
        assert not any(stranger.connected(2) for stranger in strangers)
    finally:
        made.close()
        rabbit.stop()


def _certificate(
    name: str, ca: x509.Certificate | None = None, ca_key: ec.EllipticCurvePrivateKey | None = None
) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(ca.subject if ca else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=ca is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
    )
    return key, builder.sign(ca_key or key, hashes.SHA256())


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
