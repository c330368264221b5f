"""The right guest gets the right answer, and nobody hurts the others."""

from __future__ import annotations

import json
import selectors
import socket
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from uuid import uuid4

import pytest
from tests.system.host_network.lab import Guest, Lab, subnet

from kilonova.domain.errors import Conflict
from kilonova.domain.network import AddressPair
from kilonova.domain.servers import GuestMetadata
from kilonova.network.base import MetadataDeeds
from kilonova.network.host import exchanges

pytestmark = pytest.mark.system

META_DATA = "/openstack/latest/meta_data.json"


def known(lab: Lab, number: int, name: str, **more: object) -> Guest:
    """A guest with its address set, of which the metadata service knows the name."""
    guest = lab.guest(number, **more)
    guest.set_address()
    lab.known[guest.vif.network_id, guest.ip] = GuestMetadata(
        server_id=str(uuid4()),
        name=name,
        hostname=name,
        project_id="p",
        vifs=[guest.vif],
        user_data=b"#!/bin/sh\n",
    )
    return guest


def name_told(guest: Guest, **more: dict[str, str]) -> str:
    status, body = guest.get(META_DATA, **more)
    assert status == 200
    return str(json.loads(body)["name"])


def test_each_guest_is_told_its_own_even_where_addresses_are_the_same(lab: Lab) -> None:
    one, two = known(lab, 5, "one"), known(lab, 6, "two")
    other = known(lab, 5, "other", network_id=str(uuid4()))
    assert [name_told(guest) for guest in (one, two, other)] == ["one", "two", "other"]


def test_with_the_routes_of_dhcp(lab: Lab, tmp_path: Path) -> None:
    lab.subnet = subnet(gateway=False)
    guest = lab.guest(5)
    guest.dhcp(tmp_path)
    lab.known[lab.network_id, guest.ip] = GuestMetadata(server_id="s", name="n", hostname="n", project_id="p")
    assert name_told(guest) == "n"


def test_headers_pretend_nothing(lab: Lab) -> None:
    one, two = known(lab, 5, "one"), known(lab, 6, "two")
    lie = {
        "X-Forwarded-For": two.ip,
        "X-Instance-ID": lab.known[lab.network_id, two.ip].server_id,
        "X-Tenant-ID": "p",
        "X-Instance-ID-Signature": "0" * 64,
    }
    assert name_told(one, headers=lie) == "one"


def test_user_data_listing_and_what_is_not_there(lab: Lab) -> None:
    guest = known(lab, 5, "one")
    assert guest.get("/openstack/latest/user_data") == (200, b"#!/bin/sh\n")
    assert b"meta_data.json" in guest.get("/openstack/latest")[1].splitlines()
    assert guest.get("/latest/meta-data/local-ipv4") == (200, b"10.80.0.5")
    assert guest.get("/openstack/1999-01-01/meta_data.json")[0] == 404
    assert guest.get("/../../etc/passwd")[0] == 404
    assert guest.get("/openstack/latest/user_data", method="POST")[0] == 405


def test_an_unknown_guest_gets_404(lab: Lab) -> None:
    guest = lab.guest(5)
    guest.set_address()
    assert guest.get(META_DATA)[0] == 404


def test_a_lookup_that_fails_is_503(lab: Lab) -> None:
    guest = known(lab, 5, "one")
    lab.host.stop()

    def fails(network_id: str, address: str) -> None:
        raise RuntimeError("no conductor")

    lab.host.start(fails)
    assert guest.get(META_DATA)[0] == 503


def test_after_a_restart_it_answers_again(lab: Lab) -> None:
    guest = known(lab, 5, "one")
    lab.restart()
    assert name_told(guest) == "one"


NONSENSE = [
    b"\r\n\r\n",
    b"GET\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"\xff\xfe\r\n\r\n",
    b"x" * 100_000,
    b"GET / HTTP/1.1\r\n",
]


def test_nonsense_ends(lab: Lab) -> None:
    guest = known(lab, 5, "one")

    def send(request: bytes) -> None:
        with socket.create_connection(("169.254.169.254", 80), timeout=30) as connection, suppress(OSError):
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(4096):
                pass

    for request in NONSENSE:
        guest.inside(lambda request=request: send(request))  # type: ignore[misc]
        assert name_told(guest) == "one", request


def test_a_guest_that_holds_connections_open_hurts_only_itself(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchanges, "_SECONDS", 120.0)
    greedy, modest = known(lab, 5, "greedy"), known(lab, 6, "modest")
    to = ("169.254.169.254", 80)
    held = [greedy.inside(lambda: socket.create_connection(to, timeout=30)) for _ in range(80)]
    assert name_told(modest) == "modest"
    began = time.monotonic()
    lab.restart()
    assert time.monotonic() - began < 60, "stop waits for nobody"
    for connection in held:
        connection.close()


def test_many_guests_that_dawdle_hurt_nobody(lab: Lab) -> None:
    """Each with all the places that it has; and again as soon as they are free."""
    crowd = [known(lab, number, "slow") for number in range(10, 19)]
    modest, other = known(lab, 5, "modest"), known(lab, 5, "other", network_id=str(uuid4()))

    def connect() -> socket.socket:
        return socket.create_connection(("169.254.169.254", 80), timeout=30)

    held = [guest.inside(connect) for guest in crowd for _ in range(4)]
    assert [name_told(guest) for guest in (modest, other)] == ["modest", "other"]
    for connection in held:
        connection.sendall(b"GET / HTTP/1.1\r\n")  # half of it
    assert [name_told(guest) for guest in (modest, other)] == ["modest", "other"]
    for connection in held:
        connection.close()


def test_a_guest_with_many_addresses_has_no_more_places(lab: Lab) -> None:
    """More than the host has: 40 addresses, each of which alone could have four."""
    pairs = [AddressPair(ip_address="10.80.0.64/26")]
    greedy, modest = known(lab, 5, "greedy", allowed_address_pairs=pairs), known(lab, 6, "modest")
    other = known(lab, 5, "other", network_id=str(uuid4()))
    addresses = [f"10.80.0.{number}" for number in range(64, 104)]
    for address in addresses:
        greedy.run("ip", "addr", "add", f"{address}/24", "dev", "eth0")

    def connect(address: str) -> socket.socket:
        return socket.create_connection(("169.254.169.254", 80), timeout=30, source_address=(address, 0))

    held = [greedy.inside(lambda one=address: connect(one)) for address in addresses for _ in range(4)]
    assert [name_told(guest) for guest in (modest, other, greedy)] == ["modest", "other", "greedy"]
    for connection in held:
        connection.close()


def test_a_password_is_told_once(lab: Lab) -> None:
    guest = known(lab, 5, "one")
    kept: list[str] = []

    def keep(_about: GuestMetadata, password: str) -> None:
        if kept:
            raise Conflict("told already")
        kept.append(password)

    lab.host.stop()
    lab.host.start(
        lambda network, address: lab.known.get((network, address)),
        MetadataDeeds(vendor_data=lambda about: {"of": {"name": about.name}}, keep_password=keep),
    )
    path = "/openstack/latest/password"
    for body in (b"", b"x" * 1021, b"\xff", b"a\0b"):
        assert guest.get(path, method="POST", body=body)[0] == 400
    assert guest.get("/openstack/latest/user_data", method="POST", body=b"x")[0] == 405
    assert guest.get(path, method="POST", body=b"x" * 1020) == (200, b"")
    assert guest.get(path, method="POST", body=b"y")[0] == 409
    assert kept == ["x" * 1020]
    vendor = json.loads(guest.get("/openstack/latest/vendor_data2.json")[1])
    assert vendor == {"static": {}, "of": {"name": "one"}}


@pytest.mark.parametrize("gateway", [True, False])
def test_a_guest_that_asks_without_end_is_heard_seldom(lab: Lab, gateway: bool) -> None:
    """The kernel keeps the rest from the agent, with a way out or without; another is heard as ever."""
    lab.subnet = subnet(gateway=gateway)
    greedy, modest = known(lab, 5, "greedy"), known(lab, 6, "modest")
    for guest in (greedy, modest):
        guest.run("ip", "route", "replace", "169.254.169.254", "dev", "eth0")

    def flood() -> int:
        """How many of 600 connections came about within a second and a half."""
        asking = [socket.socket() for _ in range(600)]
        with ExitStack() as opened, selectors.DefaultSelector() as answered:
            for one in asking:
                opened.enter_context(one)
                one.setblocking(False)
                one.connect_ex(("169.254.169.254", 80))
                answered.register(one, selectors.EVENT_WRITE)
            came, ends = 0, time.monotonic() + 1.5
            while (left := ends - time.monotonic()) > 0:
                for key, _ in answered.select(left):
                    answered.unregister(key.fileobj)
                    came += 1
        return came

    assert greedy.inside(flood) < 400
    assert name_told(modest) == "modest"
    lab.host.repair()
    assert lab.host.repair() == [], "who asked is nothing to mend"
