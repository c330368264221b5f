"""Where the broker is and how to connect to it; the names of what is declared there."""

from __future__ import annotations

import socket
import ssl
from typing import Any, ClassVar, NamedTuple
from urllib.parse import unquote, urlsplit

import amqp

from kilonova import __version__
from kilonova.bus.rabbit.inbound import frame_handler
from kilonova.bus.rabbit.transport import Batched, batched
from kilonova.config import Bus
from kilonova.domain.errors import BadRequest

_PORTS = {"amqp": 5672, "amqps": 5671}
_CONNECT_TIMEOUT = 5.0
_SILENCE = 10.0
"""Seconds that the broker may leave a question of the protocol, or half a frame, unanswered."""
_UNACKNOWLEDGED_MS = 10_000
"""How long TCP may wait for the other side to acknowledge what was sent."""


class Broker(NamedTuple):
    """One broker of ``[bus] url``."""

    host: str
    port: int
    user: str
    password: str
    virtual_host: str
    tls: bool

    def __str__(self) -> str:
        """For people: without the password."""
        return f"{self.user}@{self.host}:{self.port}/{self.virtual_host.removeprefix('/')}"


def brokers(urls: str) -> list[Broker]:
    """``amqp://user:password@host:port/vhost``, or several of these with commas between (a cluster).

    BadRequest says what is wrong, without showing the password.
    """
    return [_broker(url.strip()) for url in urls.split(",") if url.strip()]


def _broker(url: str) -> Broker:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise BadRequest(f"[bus] url: {error}") from error
    if parts.scheme not in _PORTS or not parts.hostname:
        raise BadRequest("[bus] url must look like amqp://user:password@host:5672/vhost (amqps:// with TLS)")
    return Broker(
        host=parts.hostname,
        port=port or _PORTS[parts.scheme],
        user=unquote(parts.username or "guest"),
        password=unquote(parts.password or "guest"),
        virtual_host=unquote(parts.path[1:]) or "/",
        tls=parts.scheme == "amqps",
    )


class Connection(amqp.Connection):  # type: ignore[misc]
    # With connection.blocked, py-amqp would read from the socket before each publish.
    negotiate_capabilities: ClassVar = {**amqp.Connection.negotiate_capabilities, "connection.blocked": False}
    transport: Batched
    user = ""
    """As whom it logged in: the broker refuses messages that say to be another's."""

    def Transport(  # py-amqp calls it so
        self, host: str, connect_timeout: float, ssl: Any, *_timeouts: Any, **options: Any
    ) -> Batched:
        return batched(host, connect_timeout, ssl, **options)


def connect(broker: Broker, config: Bus, purpose: str) -> Connection:
    """A connection that is open. OSError or an error of amqp's if there is none to be had."""
    host = f"[{broker.host}]" if ":" in broker.host else broker.host
    connection = Connection(
        f"{host}:{broker.port}",
        broker.user,
        broker.password,
        login_method="PLAIN",
        virtual_host=broker.virtual_host,
        ssl=_tls(broker, config) if broker.tls else False,
        connect_timeout=_CONNECT_TIMEOUT,
        heartbeat=round(config.heartbeat),
        frame_handler=frame_handler,
        client_properties={"product": "kilonova", "product_version": __version__, "connection_name": purpose},
        socket_settings={socket.TCP_USER_TIMEOUT: _UNACKNOWLEDGED_MS},
    )
    connection.user = broker.user
    try:
        connection.connect()
    except BaseException:
        connection.collect()
        raise
    connection.sock.settimeout(_SILENCE)
    return connection


def is_refusal(error: Exception) -> bool:
    """Whether connect() fails so again: a wrong password, a virtual host that is not there, or not ours."""
    if isinstance(error, amqp.exceptions.NotAllowed):
        return not str(error).endswith("is down")  # a virtual host that was not recovered yet
    return isinstance(error, amqp.exceptions.AccessRefused)


def _tls(broker: Broker, config: Bus) -> dict[str, Any]:
    """The broker's certificate is always checked: against ``ssl_ca_file``, else what the system trusts."""
    options: dict[str, Any] = {"cert_reqs": ssl.CERT_REQUIRED, "server_hostname": broker.host}
    given = {
        "ca_certs": config.ssl_ca_file,
        "certfile": config.ssl_cert_file,
        "keyfile": config.ssl_key_file,
    }
    return options | {name: path for name, path in given.items() if path}


class Names(NamedTuple):
    """What is declared at the broker, all of it beginning with the exchange's name."""

    exchange: str

    def queue(self, key: str) -> str:
        return f"{self.exchange}.{key}"

    def told(self, topic: str) -> str:
        """The queue of what is told on that topic. It is bound to nothing: messages are sent to it itself."""
        return f"{self.exchange}.told.{topic}"

    @property
    def unreadable(self) -> str:
        """The queue where messages are set aside that nobody could read."""
        return f"{self.exchange}.unreadable"


def cast_key(topic: str) -> str:
    return topic


def call_key(topic: str) -> str:
    return f"call.{topic}"


def topic_of(key: str) -> str:
    """The topic that such a key names."""
    return key.removeprefix("call.")
