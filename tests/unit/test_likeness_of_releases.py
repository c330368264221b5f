"""A host and a conductor of two releases agree on what is alike: what only the newer one knows is not in it
as long as nobody uses it."""

from __future__ import annotations

import uuid

import msgspec
from msgspec import structs

from kilonova.domain import codec
from kilonova.domain.likeness import Held, digest
from kilonova.domain.network import HostRoute, Vif, VifAddress, VifSubnet
from kilonova.domain.servers import PowerState

SUBNET = VifSubnet(
    id=str(uuid.UUID(int=1)),
    cidr="10.0.0.0/24",
    gateway_ip="10.0.0.1",
    host_routes=[HostRoute(destination="10.1.0.0/16", nexthop="10.0.0.9")],
)
VIF = Vif(
    port_id=str(uuid.UUID(int=2)),
    network_id=str(uuid.UUID(int=3)),
    mac="fa:16:3e:00:00:01",
    mtu=1450,
    addresses=[VifAddress(ip="10.0.0.5", subnet=SUBNET)],
)


class NextSubnet(VifSubnet, frozen=True, kw_only=True):
    """Of the release after this."""

    colour: str | None = None
    shades: list[str] = msgspec.field(default_factory=list)


class NextVif(Vif, frozen=True, kw_only=True):
    weights: dict[str, int] = msgspec.field(default_factory=dict)
    speed: int = 12_345


def said(vif: Vif) -> str:
    return digest([Held("s", PowerState.RUNNING, [vif])])


def as_next(
    vif: Vif = VIF, subnet: VifSubnet = SUBNET, speed: int = 12_345, colour: str | None = None
) -> Vif:
    """The same, by the structs of the next release."""
    known = {name: getattr(subnet, name) for name in VifSubnet.__struct_fields__}
    address = VifAddress(ip=vif.addresses[0].ip, subnet=NextSubnet(**known, colour=colour))
    values = {name: getattr(vif, name) for name in Vif.__struct_fields__} | {"addresses": [address]}
    return NextVif(**values, speed=speed)


def test_what_only_the_next_release_knows_makes_no_difference() -> None:
    assert said(as_next()) == said(VIF)


def test_it_makes_one_when_it_is_used() -> None:
    assert len({said(VIF), said(as_next(speed=1)), said(as_next(colour="red"))}) == 3


def test_equal_values_are_alike_wherever_they_come_from() -> None:
    """One was named as it is by default, the other left out; one was decoded."""
    plain = structs.replace(VIF, mtu=1500, network_name="")
    read = codec.from_json(msgspec.json.encode(plain), Vif)
    left_out = Vif(port_id=VIF.port_id, network_id=VIF.network_id, mac=VIF.mac, addresses=VIF.addresses)
    assert said(plain) == said(read) == said(left_out)


def test_every_difference_is_one() -> None:
    route = HostRoute(destination="10.1.0.0/16", nexthop="10.0.0.8")
    subnets = [
        structs.replace(SUBNET, host_routes=[route]),
        structs.replace(SUBNET, gateway_ip=None),
        structs.replace(SUBNET, enable_dhcp=False),
    ]
    vifs = [
        VIF,
        structs.replace(VIF, mtu=1500),
        structs.replace(VIF, admin_state_up=False),
        *(structs.replace(VIF, addresses=[VifAddress(ip="10.0.0.5", subnet=one)]) for one in subnets),
    ]
    assert len({said(vif) for vif in vifs}) == len(vifs)
