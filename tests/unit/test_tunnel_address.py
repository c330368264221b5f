"""At which address a host takes tunnels."""

from __future__ import annotations

import click
import msgspec
import pytest

from kilonova.cli.parts import tunnels
from kilonova.config import Bus, Config, Network
from kilonova.domain import codec

BROKER = "amqp://u:p@127.0.0.1:5672/"


def address(bus: str, **network: object) -> str:
    config = Config(bus=Bus(url=bus), network=Network(**network))  # type: ignore[arg-type]
    return tunnels.settled(config, lambda _said: None).network.tunnel_address


def test_one_machine_takes_none() -> None:
    assert address("") == ""
    assert address("", tunnel_address="127.0.0.1") == ""
    assert address(BROKER) == ""  # nobody else reaches loopback


def test_it_is_the_one_that_the_broker_is_reached_from(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(tunnels, "towards", lambda host: asked.append(host) or "192.0.2.7")
    assert address("amqps://u:p@control:5671/v,amqp://u:p@other/v") == "192.0.2.7"
    assert asked == ["control"]
    assert address(BROKER, tunnels=False) == ""
    monkeypatch.setattr(tunnels, "towards", lambda _host: None)
    assert address(BROKER) == ""


def test_it_can_be_said() -> None:
    assert address(BROKER, tunnel_address="127.0.0.1") == "127.0.0.1"
    with pytest.raises(click.ClickException, match="no address of this host"):
        address(BROKER, tunnel_address="192.0.2.77")


def test_a_link_that_carries_too_little_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    for carries in (1500, 1400):
        monkeypatch.setattr(tunnels, "_link_of", lambda _address, own=carries: {"IFLA_MTU": own})
        monkeypatch.setattr(tunnels, "_mtu_of", lambda link: link["IFLA_MTU"])
        tunnels.settled(Config(bus=Bus(url=BROKER), network=Network(tunnel_address="192.0.2.7")), said.append)
    assert len(said) == 1
    assert "carries 1400 octets" in said[0]
    assert "networks get 1350" in said[0]


@pytest.mark.parametrize("wrong", ["x", "::1", "10.0.0.1/24", "10.0.0"])
def test_what_is_no_address(wrong: str) -> None:
    with pytest.raises(msgspec.ValidationError, match="tunnel_address"):
        codec.convert({"tunnel_address": wrong}, Network)
