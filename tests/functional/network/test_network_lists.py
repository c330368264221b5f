"""Filters, fields, sorting and pages of the networking API."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from tests.statements import sent

from kilonova.network.builtin.service import BuiltinNetwork
from kilonova.store import (
    address_groups,
    default_security_group_rules,
    floating_ips,
    network_rbac,
    networks,
    ports,
    routers,
    security_group_rules,
    security_groups,
    subnetpools,
    subnets,
)

from .conftest import ALICE, Caller, path_of


@pytest.fixture
def five(alice: Caller) -> list[str]:
    """Five networks: names c, a, b, a, d in the order of their making."""
    return [alice.create("network", name=name, description=name * 2)["id"] for name in "cabad"]


def test_filters_repeat_and_combine(alice: Caller, admin: Caller, five: list[str]) -> None:
    assert set(alice.ids("networks", name="a")) == {five[1], five[3]}
    assert set(alice.ids("networks", name=["a", "c"])) == {five[0], five[1], five[3]}
    assert alice.ids("networks", name="a", id=five[3]) == [five[3]]
    assert alice.ids("networks", name="") == []
    assert len(alice.ids("networks", shared="False", admin_state_up="true", mtu="1500", status="ACTIVE")) == 5
    assert alice.ids("networks", **{"router:external": "True"}) == []
    assert len(admin.ids("networks", tenant_id=ALICE)) == len(admin.ids("networks", project_id=ALICE)) == 5
    assert alice.ids("networks", name="A") == []
    assert len(alice.ids("networks", changed_since="2020-01-01T00:00:00")) == 5
    assert alice.ids("networks", changed_since="2999-01-01") == []


@pytest.mark.parametrize(
    "query",
    [
        "foo=1",
        "mtu=x",
        "mtu=-1",
        "mtu=99999999999999999999",
        "shared=perhaps",
        "limit=-1",
        "limit=x",
        "limit=1.5",
        "sort_key=foo",
        "sort_key=name&sort_dir=up",
        "sort_key=name&sort_dir=asc&sort_dir=desc",
        "changed_since=yesterday",
        "id=x&" * 2001,
        "tags=" + ",".join(f"t{n}" for n in range(51)),
        "not-tags-any=" + "&not-tags-any=".join(f"t{n}" for n in range(51)),
        "&".join(f"sort_key={name}" for name in ("name", "id", "foo")),
    ],
    ids=lambda query: query[:40],
)
def test_wrong_queries(alice: Caller, query: str) -> None:
    assert alice.refused("GET", f"/networks?{query}")[0] == 400


@pytest.mark.parametrize(
    "query",
    [
        {"sort_key": ["name", "id"] * 1500},
        {"tags": ",".join(["t"] * 1500)},
        {"not-tags-any": ["t", "u"] * 900},
        {"id": [f"{number}" for number in range(1600)]},
    ],
    ids=lambda query: next(iter(query)),
)
def test_the_same_said_often_is_said_once(alice: Caller, five: list[str], query: dict[str, Any]) -> None:
    """Made of more terms than a database takes, or of so many that making them takes the memory."""
    assert alice.get("/networks", marker=five[0], **query)["networks"] is not None
    assert alice.get("/networks", **query)["networks"] is not None


def test_the_first_of_two_orders_is_the_one_that_holds(alice: Caller, five: list[str]) -> None:
    both = {"sort_key": ["name", "name", "id"], "sort_dir": ["desc", "asc", "asc"]}
    once = {"sort_key": ["name", "id"], "sort_dir": ["desc", "asc"]}
    assert alice.ids("networks", **both) == alice.ids("networks", **once)


def test_many_parts_of_addresses(alice: Caller, net: str, subnet: dict[str, Any]) -> None:
    port = alice.create("port", network_id=net, fixed_ips=[{"ip_address": "10.0.0.77"}])["id"]
    parts = ["ip_address_substr=.0.77", *(f"ip_address_substr=x{n}" for n in range(1500))]
    assert alice.refused("GET", "/ports?" + "&".join(f"fixed_ips={part}" for part in parts))[0] == 400
    assert alice.ids("ports", fixed_ips=parts[:1] * 1500) == [port]


def test_ports_filter_by_address(alice: Caller, net: str, subnet: dict[str, Any]) -> None:
    port = alice.create("port", network_id=net, fixed_ips=[{"ip_address": "10.0.0.77"}], name="p")
    found = [port["id"]]
    for value in ("ip_address=10.0.0.77", "ip_address_substr=.0.77"):
        assert alice.ids("ports", fixed_ips=[value, f"subnet_id={subnet['id']}"]) == found
    assert alice.ids("ports", fixed_ips="ip_address=10.0.0.78") == []
    assert alice.ids("ports", fixed_ips="ip_address_substr=%") == []
    assert len(alice.ids("ports", fixed_ips=f"subnet_id={subnet['id']}")) == 2
    assert alice.ids("ports", mac_address=port["mac_address"].upper()) == found
    assert alice.ids("ports", network_id=net, device_owner="") == found
    assert alice.refused("GET", "/ports?fixed_ips=10.0.0.7")[0] == 400


def test_hosts_are_only_for_admins(alice: Caller, admin: Caller) -> None:
    assert admin.ids("ports", **{"binding:host_id": "h"}) == []
    assert alice.refused("GET", "/ports?binding:host_id=h")[0] == 400


def test_fields(alice: Caller, five: list[str]) -> None:
    for item in alice.get("/networks", fields=["id", "name"])["networks"]:
        assert set(item) == {"id", "name"}
    assert alice.get(f"/networks/{five[0]}", fields="name") == {"network": {"name": "c"}}


def _follow(alice: Caller, page: dict[str, Any], rel: str) -> dict[str, Any] | None:
    for link in page.get("networks_links", []):
        if link["rel"] == rel:
            url = urlsplit(link["href"])
            assert url.path == "/networking/v2.0/networks"
            params: dict[str, list[str]] = {}
            for name, value in parse_qsl(url.query):
                params.setdefault(name, []).append(value)
            return dict(alice.get("/networks", **params))
    return None


@pytest.mark.parametrize(
    "sort", [{}, {"sort_key": "name"}, {"sort_key": ["name", "created_at"], "sort_dir": ["desc", "asc"]}]
)
@pytest.mark.parametrize("limit", [1, 2, 3, 5, 6])
def test_pages_go_forth_and_back(alice: Caller, five: list[str], sort: dict[str, Any], limit: int) -> None:
    whole = alice.ids("networks", **sort)
    assert sorted(whole) == sorted(five)
    pages = []
    page: dict[str, Any] | None = alice.get("/networks", limit=limit, **sort)
    while page is not None:
        pages.append([item["id"] for item in page["networks"]])
        last, page = page, _follow(alice, page, "next")
    assert [item for ids in pages for item in ids] == whole
    back = [[item["id"] for item in last["networks"]]]
    while (last := _follow(alice, last, "previous")) is not None:
        back.append([item["id"] for item in last["networks"]])
    assert [item for ids in reversed(back) for item in ids] == whole


def test_sorting_by_something_that_may_be_null(alice: Caller, net: str) -> None:
    made = [
        alice.create("subnet", network_id=net, cidr=f"10.{n}.0.0/24", gateway_ip=gateway)["id"]
        for n, gateway in ((1, None), (2, "10.2.0.9"), (3, None))
    ]
    first = alice.get("/subnets", sort_key="gateway_ip", limit=1)["subnets"][0]["id"]
    rest = alice.ids("subnets", sort_key="gateway_ip", marker=first)
    assert sorted([first, *rest]) == sorted(made)
    assert rest[-1] == made[1]


_SORTED = [
    (plural, name)
    for plural, listing in {
        "networks": {**networks.ATTRIBUTES, "shared": None},
        "subnets": {**subnets.ATTRIBUTES, "shared": None},
        "subnetpools": subnetpools.ATTRIBUTES,
        "ports": ports.ATTRIBUTES,
        "routers": routers.ATTRIBUTES,
        "security-groups": {**security_groups.ATTRIBUTES, "shared": None},
        "security-group-rules": security_group_rules.ATTRIBUTES,
        "floatingips": floating_ips.ATTRIBUTES,
        "address-groups": address_groups.ATTRIBUTES,
        "rbac-policies": network_rbac.ATTRIBUTES,
        "default-security-group-rules": default_security_group_rules.ATTRIBUTES,
    }.items()
    for name in (*listing, "created_at")
    if plural not in ("rbac-policies", "default-security-group-rules") or name != "created_at"
]


def test_every_attribute_leads_from_page_to_page(admin: Caller) -> None:
    for number in range(3):
        net = admin.create("network", shared=number == 1, **{"router:external": number == 2})["id"]
        admin.create("subnet", network_id=net, cidr="10.0.0.0/24", enable_dhcp=number == 1)
        if number == 2:
            for _ in range(3):
                admin.create("floatingip", floating_network_id=net)
        admin.create("port", network_id=net, admin_state_up=number == 1)
        admin.create("router", admin_state_up=number == 1)
        admin.create("security_group", name=f"group{number}")
        admin.create("address_group", name=f"group{number}")
        admin.create("subnetpool", prefixes=["10.0.0.0/8"], shared=number == 1, is_default=number == 2)
    for plural, name in _SORTED:
        kind = plural.replace("-", "_")
        whole = admin.get(f"/{plural}", sort_key=name, sort_dir="desc")[kind]
        seen = whole[:1]
        while len(seen) < len(whole) and (
            found := admin.get(f"/{plural}", sort_key=name, sort_dir="desc", limit=1, marker=seen[-1]["id"])[
                kind
            ]
        ):
            seen += found
        assert [one["id"] for one in seen] == [one["id"] for one in whole], (plural, name)
        assert len(seen) > 1


_FOUND_BY_NONE = {"created_at", "updated_at"}
"""changed_since finds by time."""
_COMPUTED = {"binding:vif_type", "external_gateway_info", "port_details"}


def test_each_attribute_finds_what_shows_it(admin: Caller) -> None:
    """Of all resources, each that is one value: with it, and without what shows another."""
    made = one_of_each(admin)
    for kind, item_id in made.items():
        several = path_of(kind).replace("policys", "policies")
        plural = several[1:].replace("-", "_")
        item = next(one for one in admin.get(several)[plural] if one["id"] == item_id)
        for name, value in item.items():
            if isinstance(value, (list, dict)) or name in _FOUND_BY_NONE | _COMPUTED:
                continue
            found = admin.get(several, **{name: "" if value is None else value})[plural]
            assert item_id in [one["id"] for one in found], (kind, name)
            assert {one[name] for one in found} == {value}, (kind, name)
        (alone,) = admin.get(several, id=item_id, fields=["id", "name"])[plural]
        assert set(alone) == {"id", "name"} & set(item)


def one_of_each(admin: Caller) -> dict[str, str]:
    """Kind → id of a resource of it. There are others, too."""
    net = admin.create("network", shared=True, **{"router:external": True})["id"]
    needed: dict[str, dict[str, Any]] = {
        "subnet": {"network_id": net, "cidr": "198.51.100.0/24"},
        "port": {"network_id": net},
        "subnetpool": {"prefixes": ["10.64.0.0/16"], "default_quota": 5},
        "router": {"external_gateway_info": {"network_id": net}},
        "floatingip": {"floating_network_id": net},
        "security_group": {"name": "g"},
        "address_group": {"name": "g", "addresses": ["10.0.0.0/8"]},
        "default_security_group_rule": {"direction": "ingress", "protocol": "tcp"},
    }
    made = {kind: str(admin.create(kind, **said)["id"]) for kind, said in needed.items()}
    rule = {"direction": "ingress", "protocol": "tcp", "port_range_min": 22, "port_range_max": 23}
    of_group = {"security_group_id": made["security_group"], "remote_ip_prefix": "10.0.0.9/8"}
    made["security_group_rule"] = admin.create("security_group_rule", **rule, **of_group)["id"]
    shared = admin.get("/rbac-policies", object_id=net, action="access_as_shared")["rbac_policies"]
    return made | {"network": net, "rbac_policy": shared[0]["id"]}


def test_unknown_marker(alice: Caller, bob: Caller, five: list[str]) -> None:
    assert alice.refused("GET", "/networks?marker=nothing")[0] == 404
    assert bob.refused("GET", f"/networks?marker={five[0]}")[0] == 404


def test_the_number_of_statements_does_not_depend_on_the_page(
    alice: Caller, network: BuiltinNetwork, net: str, subnet: dict[str, Any]
) -> None:
    def statements(plural: str) -> int:
        with sent(network.db) as seen:
            alice.get(f"/{plural}")
        return len(seen)

    few = {plural: statements(plural) for plural in ("networks", "subnets", "ports")}
    for n in range(5):
        other = alice.create("network")["id"]
        alice.create("subnet", network_id=other, cidr=f"10.{n}.0.0/24")
        alice.create("port", network_id=other)
    assert {plural: statements(plural) for plural in few} == few
