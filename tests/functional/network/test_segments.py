"""Each network has a VXLAN identifier of its own; admins see and choose it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from tests.functional.network.conftest import ALICE, Caller
from tests.functional.network.test_network_races import at_once, post

from kilonova.config import Config, Network
from kilonova.domain import codec
from kilonova.domain.hosts import Capacity, HostReport
from kilonova.domain.servers import RequestedNetwork
from kilonova.network.builtin.service import BuiltinNetwork
from kilonova.store.hosts import report, seen
from kilonova.store.schema.networks import networks

REPORT = HostReport(
    hypervisor_hostname="h",
    hypervisor_type="QEMU",
    hypervisor_version=1,
    host_ip="192.0.2.1",
    total=Capacity(vcpus=4, memory_mb=4096, disk_gb=100),
    tunnel_address="192.0.2.1",
)
_OWN = ("provider:network_type", "provider:physical_network", "provider:segmentation_id")


def provider(network: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(network[name] for name in _OWN)


def number(admin: Caller, network_id: str) -> int:
    return int(admin.get(f"/networks/{network_id}")["network"]["provider:segmentation_id"])


def test_admins_see_how_a_network_is_carried(alice: Caller, admin: Caller) -> None:
    made = alice.create("network")
    assert not any(name.startswith("provider:") for name in made)
    kind, physical, vni = provider(admin.get(f"/networks/{made['id']}")["network"])
    assert (kind, physical) == ("vxlan", None)
    assert 1 <= vni < 1 << 24
    outside = admin.create("network", **{"router:external": True})
    assert provider(outside) == ("flat", "external", None)
    assert "provider" in [item["alias"] for item in alice.get("/extensions")["extensions"]]


def test_admins_choose(alice: Caller, admin: Caller) -> None:
    asked = {"provider:network_type": "vxlan", "provider:segmentation_id": 77}
    made = admin.create("network", **asked)
    assert provider(made) == ("vxlan", None, 77)
    assert admin.refused_create("network", **asked) == (409, "TunnelIdInUse")
    assert admin.refused_update("network", made["id"], **asked) == (400, "InvalidInput")
    for wrong in (0, 1 << 24, -1, "x"):
        assert admin.refused_create("network", **{"provider:segmentation_id": wrong})[0] == 400
    assert alice.refused_create("network", **{"provider:segmentation_id": 78}) == (403, "PolicyNotAuthorized")
    flat = {"provider:network_type": "flat", "provider:physical_network": "external"}
    assert admin.create("network", **flat, **{"router:external": True})


def test_filters_are_for_admins(alice: Caller, admin: Caller) -> None:
    made = alice.create("network")["id"]
    outside = admin.create("network", **{"router:external": True})["id"]
    asked = {"provider:segmentation_id": str(number(admin, made))}
    assert [one["id"] for one in admin.get("/networks", **asked)["networks"]] == [made]
    found = admin.get("/networks", **{"provider:network_type": "flat"})["networks"]
    assert [one["id"] for one in found] == [outside]
    assert alice("GET", "/networks", params=asked).status_code == 400


@pytest.fixture
def few(network: BuiltinNetwork) -> BuiltinNetwork:
    """Four identifiers in all."""
    network.config = Config(network=Network(vni_range="100:103"))
    return network


def test_an_identifier_is_given_once_and_again_when_it_is_free(
    alice: Caller, admin: Caller, few: BuiltinNetwork
) -> None:
    assert at_once(6, lambda _: post(alice, "network")) == {201: 4, 409: 2}
    made = {number(admin, one): one for one in admin.ids("networks")}
    assert sorted(made) == [100, 101, 102, 103]
    assert alice("DELETE", f"/networks/{made[102]}").status_code == 204
    assert number(admin, alice.create("network")["id"]) == 102
    assert alice.refused_create("network") == (409, "NoNetworkAvailable")


def test_a_failed_create_keeps_none(admin: Caller, few: BuiltinNetwork) -> None:
    for _ in range(5):
        assert admin("POST", "/networks", {"networks": [{}, {"mtu": 9000}]}).status_code == 400
    assert len([admin.create("network") for _ in range(4)]) == 4


def test_networks_of_the_release_before_get_theirs_when_a_host_asks(
    alice: Caller, admin: Caller, few: BuiltinNetwork
) -> None:
    made = alice.create("network")["id"]
    with few.db.write() as conn:
        conn.execute(sa.update(networks).values(segmentation_id=None))
    view = admin.get(f"/networks/{made}")["network"]
    assert provider(view) == ("vxlan", None, None)


def test_a_network_that_gets_none_takes_nothing_from_the_others(
    alice: Caller, admin: Caller, few: BuiltinNetwork
) -> None:
    """All are given: its host still hears of its ports, and of the tunnels of the others."""
    made = [alice.create("network")["id"] for _ in range(3)]
    with few.db.write() as conn:
        conn.execute(sa.update(networks).where(networks.c.id.in_(made[:2])).values(segmentation_id=None))
        report(conn, seen(conn, "nova-compute", "h", "nova"), "h", REPORT, few.config.compute)
    for _ in range(3):
        admin.create("network")
    for net in made:
        alice.create("subnet", network_id=net, cidr="10.0.0.0/24")
    asked = [RequestedNetwork(network_id=net) for net in made]
    vifs = few.allocate_for_instance("s", ALICE, "vm", "h", "nova", asked)
    state = few.state("h", [vif.port_id for vif in vifs])
    assert len(state.ports) == 3
    assert state.tunnels.keys() == {made[2]}


@pytest.mark.parametrize("wrong", ["", "5", "5:4", "0:9", "1:16777216", "a:b", "-1:5"])
def test_a_range_that_is_none_is_refused(wrong: str) -> None:
    with pytest.raises(msgspec.ValidationError, match="vni_range"):
        codec.convert({"vni_range": wrong}, Network)
