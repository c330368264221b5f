"""Requests at the same moment: one of them gets what only one can have, the others hear why not."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import pytest
from falcon.testing import Result
from tests.functional.network.conftest import ALICE, BOB, Caller, path_of

from kilonova.config import Config
from kilonova.domain.context import RequestContext
from kilonova.domain.errors import NotFound
from kilonova.domain.servers import RequestedNetwork
from kilonova.network.base import Seat
from kilonova.network.builtin import interfaces, networks, ports, rbac, subnets
from kilonova.network.builtin.errors import SubnetNotFound
from kilonova.network.builtin.requests import (
    FixedIpRequest,
    NetworkUpdate,
    PortCreate,
    PortUpdate,
    SubnetCreate,
    SubnetUpdate,
)
from kilonova.network.builtin.service import BuiltinNetwork

OWNER = RequestContext(request_id="r", user_id="u", project_id=ALICE, roles=frozenset({"member"}))


def at_once(count: int, ask: Callable[[int], Result]) -> Counter[int]:
    """How many got which status."""
    begin = threading.Barrier(count)

    def run(number: int) -> int:
        begin.wait()
        return int(ask(number).status_code)

    with ThreadPoolExecutor(count) as pool:
        return Counter(pool.map(run, range(count)))


def post(caller: Caller, kind: str, **attributes: Any) -> Result:
    return caller("POST", path_of(kind), {kind: attributes})


def test_subnets_do_not_overlap(alice: Caller, net: str) -> None:
    """Nor does a network get two DHCP ports of the subnets that are made together."""
    got = at_once(6, lambda _: post(alice, "subnet", network_id=net, cidr="10.0.0.0/24"))
    assert got == {201: 1, 400: 5}
    got = at_once(4, lambda n: post(alice, "subnet", network_id=net, cidr=f"10.0.{n + 1}.0/24"))
    assert got == {201: 4}
    (dhcp,) = alice.get("/ports", device_owner="network:dhcp")["ports"]
    assert len(dhcp["fixed_ips"]) == 5


def test_the_first_subnets_of_a_network(alice: Caller, net: str) -> None:
    assert at_once(4, lambda n: post(alice, "subnet", network_id=net, cidr=f"10.0.{n}.0/24")) == {201: 4}
    assert len(alice.get("/ports", device_owner="network:dhcp")["ports"]) == 1


def test_an_address_is_given_once(alice: Caller, net: str, subnet: dict[str, Any]) -> None:
    wanted = [{"subnet_id": subnet["id"], "ip_address": "10.0.0.50"}]
    got = at_once(6, lambda _: post(alice, "port", network_id=net, fixed_ips=wanted))
    assert got == {201: 1, 409: 5}
    assert at_once(8, lambda _: post(alice, "port", network_id=net)) == {201: 8}
    ports = alice.get("/ports")["ports"]
    assert len({ip["ip_address"] for port in ports for ip in port["fixed_ips"]}) == len(ports) == 10


def test_a_mac_is_given_once(alice: Caller, net: str) -> None:
    mac = "fa:16:3e:00:00:01"
    assert at_once(6, lambda _: post(alice, "port", network_id=net, mac_address=mac)) == {201: 1, 409: 5}


def test_quotas_hold(alice: Caller, limited: BuiltinNetwork) -> None:
    assert at_once(8, lambda _: post(alice, "network")) == {201: 2, 409: 6}
    net = alice.ids("networks")[0]
    assert at_once(6, lambda _: post(alice, "port", network_id=net)) == {201: 2, 409: 4}
    cidrs = at_once(6, lambda n: post(alice, "subnet", network_id=net, cidr=f"10.{n}.0.0/24"))
    assert cidrs == {201: 2, 409: 4}


def test_a_network_goes_or_is_used(alice: Caller) -> None:
    for _ in range(5):
        net = str(alice.create("network")["id"])

        def ask(number: int, net: str = net) -> Result:
            return alice("DELETE", f"/networks/{net}") if number == 0 else post(alice, "port", network_id=net)

        got = at_once(3, ask)
        assert got in (Counter({204: 1, 404: 2}), Counter({409: 1, 201: 2})), got
        assert len(alice.ids("ports", network_id=net)) == got[201]


def test_a_subnet_goes_or_is_used(alice: Caller, net: str) -> None:
    for _ in range(5):
        subnet = alice.create("subnet", network_id=net, cidr="10.0.0.0/24")["id"]
        wanted = [{"subnet_id": subnet}]

        def ask(number: int, subnet: str = subnet, wanted: Any = wanted) -> Result:
            if number == 0:
                return alice("DELETE", f"/subnets/{subnet}")
            return post(alice, "port", network_id=net, fixed_ips=wanted)

        got = at_once(3, ask)
        assert got in (Counter({204: 1, 400: 2}), Counter({409: 1, 201: 2})), got
        for port in alice.ids("ports"):
            if got[201]:
                alice("DELETE", f"/ports/{port}")
        if got[409]:
            alice.delete("subnet", subnet)


def test_tags_at_once(alice: Caller, net: str) -> None:
    got = at_once(8, lambda n: alice("PUT", f"/networks/{net}/tags/t{n // 2}"))
    assert set(got) <= {201, 200}
    assert alice.get(f"/networks/{net}/tags")["tags"] == ["t0", "t1", "t2", "t3"]


def test_tags_that_are_replaced_at_once_are_the_ones_or_the_others(alice: Caller, net: str) -> None:
    for _ in range(5):
        wanted = [[f"{n}-{m}" for m in range(5)] for n in range(4)]
        at_once(4, lambda n: alice("PUT", f"/networks/{net}/tags", {"tags": wanted[n]}))  # noqa: B023
        assert alice.get(f"/networks/{net}/tags")["tags"] in wanted


def test_updates_of_one_port(alice: Caller, net: str, subnet: dict[str, Any]) -> None:
    port = alice.create("port", network_id=net)

    def ask(number: int) -> Result:
        return alice("PUT", f"/ports/{port['id']}", {"port": {"name": f"p{number}"}})

    assert at_once(6, ask) == {200: 6}
    assert alice.get(f"/ports/{port['id']}")["port"]["revision_number"] == port["revision_number"] + 6


@pytest.mark.parametrize("kind", ["network", "subnet", "port", "floatingip", "security_group"])
def test_one_of_many_changes_what_they_have_all_read(
    alice: Caller, admin: Caller, net: str, subnet: dict[str, Any], kind: str
) -> None:
    """``If-Match``: the others read it again first."""
    public = admin.create("network", **{"router:external": True})["id"]
    admin.create("subnet", network_id=public, cidr="198.51.100.0/24", enable_dhcp=False)
    needed = {
        "subnet": {"network_id": net, "cidr": "10.5.0.0/24"},
        "port": {"network_id": net},
        "floatingip": {"floating_network_id": public},
    }
    made = alice.create(kind, **needed.get(kind, {}))
    path, read = f"{path_of(kind)}/{made['id']}", {"If-Match": f"revision_number={made['revision_number']}"}
    got = at_once(6, lambda n: alice("PUT", path, {kind: {"description": f"{n}"}}, headers=read))
    assert got == {200: 1, 412: 5}
    assert alice.get(path)[kind]["revision_number"] == made["revision_number"] + 1


def test_one_default_group_however_many_need_it_at_once(alice: Caller, net: str) -> None:
    assert at_once(6, lambda _: post(alice, "port", network_id=net)) == {201: 6}
    groups = alice.get("/security-groups")["security_groups"]
    assert [group["name"] for group in groups] == ["default"]


def test_the_same_rule_at_once_is_made_once(alice: Caller) -> None:
    group = alice.create("security_group")["id"]
    rule = {"security_group_id": group, "direction": "ingress", "protocol": "tcp"}
    assert at_once(5, lambda _: post(alice, "security_group_rule", **rule)) == {201: 1, 409: 4}


def test_quotas_of_groups_and_rules_hold(alice: Caller, admin: Caller) -> None:
    group = alice.create("security_group")["id"]
    quota = {"security_group": 4, "security_group_rule": 13}
    assert admin("PUT", f"/quotas/{ALICE}", {"quota": quota}).status_code == 200
    assert at_once(5, lambda _: post(alice, "security_group")) == {201: 2, 409: 3}
    rule = {"security_group_id": group, "direction": "ingress", "protocol": "tcp"}

    def make(number: int) -> Result:
        port = str(number + 1)
        return post(alice, "security_group_rule", **rule, port_range_min=port, port_range_max=port)

    assert at_once(6, make) == {201: 3, 409: 3}


def test_a_group_is_not_deleted_under_a_port(alice: Caller, net: str) -> None:
    """However they meet: no port is ever in a group that is not there."""
    for _ in range(5):
        group = alice.create("security_group")["id"]

        def act(number: int, group: str = group) -> Result:
            if number:
                return alice("DELETE", f"/security-groups/{group}")
            return post(alice, "port", network_id=net, security_groups=[group])

        assert at_once(2, act) in ({201: 1, 409: 1}, {204: 1, 404: 1})


def test_an_address_is_a_ports_or_the_gateway(alice: Caller, net: str, subnet: dict[str, Any]) -> None:
    for number in range(20, 28):
        address = f"10.0.0.{number}"

        def act(which: int, address: str = address) -> Result:
            if which:
                body = {"subnet": {"gateway_ip": address, "allocation_pools": []}}
                return alice("PUT", f"/subnets/{subnet['id']}", body)
            wanted = [{"subnet_id": subnet["id"], "ip_address": address}]
            return post(alice, "port", network_id=net, fixed_ips=wanted)

        assert at_once(2, act) in ({201: 1, 409: 1}, {200: 1, 409: 1})


def meanwhile(network: BuiltinNetwork, first: Callable[[Any], object], second: Callable[[], object]) -> Any:
    """``second`` begins while the transaction of ``first`` is not committed; what it returns.

    It has a second to be done too early: before that the first one does not commit.
    """
    with ThreadPoolExecutor(1) as pool:
        with network.write() as conn:
            first(conn)
            other = pool.submit(second)
            wait([other], timeout=1.0)
        return other.result(timeout=60)


def test_a_nic_has_the_mtu_that_its_network_has(alice: Caller, network: BuiltinNetwork) -> None:
    """Who builds while somebody changes the network waits for the one, and sees it."""
    net = str(alice.create("network")["id"])
    alice.create("subnet", network_id=net, cidr="10.0.0.0/24")

    def change(conn: Any) -> None:
        networks.update(conn, network.config, OWNER, net, NetworkUpdate(mtu=1400))

    def build() -> Any:
        asked = [RequestedNetwork(network_id=net)]
        return network.allocate_for_instance("s", ALICE, "vm", "h1", "az", asked)

    (vif,) = meanwhile(network, change, build)
    assert vif.mtu == 1400


def slaac(network: BuiltinNetwork, net: str) -> Callable[[Any], object]:
    """What makes a subnet whose addresses come of the MACs."""
    modes: dict[str, Any] = {"ipv6_ra_mode": "slaac", "ipv6_address_mode": "slaac"}
    asked = SubnetCreate(network_id=net, ip_version=6, cidr="2001:db8::/64", **modes)
    return lambda conn: subnets.create(conn, network.config, OWNER, asked)


def test_a_port_changes_while_a_subnet_with_automatic_addresses_comes(
    alice: Caller, network: BuiltinNetwork, net: str, subnet: dict[str, Any]
) -> None:
    """Both need the port and the subnets, and take them in one order."""
    port = alice.create("port", network_id=net)["id"]
    make_subnet = slaac(network, net)

    def make(begun: threading.Event) -> None:
        begun.set()
        with network.write() as conn:
            make_subnet(conn)

    begun = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        with network.write() as conn:
            ports.find(conn, OWNER, port, for_update=True)
            other = pool.submit(make, begun)
            begun.wait()
            wait([other], timeout=1.0)
            body = PortUpdate(fixed_ips=[FixedIpRequest(ip_address="10.0.0.77")])
            ports.update(conn, network.config, OWNER, port, body)
        other.result(timeout=60)
    found = alice.get(f"/ports/{port}")["port"]["fixed_ips"]
    assert [":" in one["ip_address"] for one in found] == [False, True]


@pytest.mark.parametrize("others", [0, 1])
@pytest.mark.parametrize("port_first", [True, False])
def test_a_port_has_the_address_of_a_subnet_that_comes_now(
    alice: Caller, network: BuiltinNetwork, net: str, others: int, port_first: bool
) -> None:
    """Whichever of the two is first, and whether or not there is a subnet to wait for."""
    for number in range(others):
        alice.create("subnet", network_id=net, cidr=f"10.0.{number}.0/24")
    make_subnet = slaac(network, net)

    def make_port(conn: Any) -> None:
        ports.create(conn, network.config, OWNER, PortCreate(network_id=net))

    def wholly(make: Callable[[Any], object]) -> None:
        with network.write() as conn:
            make(conn)

    first, second = (make_port, make_subnet) if port_first else (make_subnet, make_port)
    meanwhile(network, first, lambda: wholly(second))
    (port,) = alice.get("/ports", network_id=net, device_owner="")["ports"]
    assert [":" in one["ip_address"] for one in port["fixed_ips"]] == [False] * others + [True]


def test_a_nic_has_the_address_of_a_subnet_that_comes_now(
    alice: Caller, network: BuiltinNetwork, net: str, subnet: dict[str, Any]
) -> None:
    asked = [RequestedNetwork(network_id=net)]

    def build() -> Any:
        return network.allocate_for_instance("s", ALICE, "vm", "h1", "az", asked)

    (vif,) = meanwhile(network, slaac(network, net), build)
    assert [":" in one.ip for one in vif.addresses] == [False, True]


def test_an_attached_nic_has_it_too(
    alice: Caller, network: BuiltinNetwork, net: str, subnet: dict[str, Any]
) -> None:
    seat = Seat(server_id="s", project_id=ALICE, hostname="vm", host="h1", availability_zone="az")
    port = meanwhile(
        network,
        slaac(network, net),
        lambda: network.attach(OWNER, seat, RequestedNetwork(network_id=net)),
    )
    found = alice.get(f"/ports/{port}")["port"]["fixed_ips"]
    assert [":" in one["ip_address"] for one in found] == [False, True]


def test_a_nic_knows_who_answers_dhcp_from_now_on(alice: Caller, network: BuiltinNetwork, net: str) -> None:
    made = alice.create("subnet", network_id=net, cidr="10.0.0.0/24", enable_dhcp=False)["id"]
    asked = [RequestedNetwork(network_id=net)]

    def change(conn: Any) -> None:
        subnets.update(conn, network.config, OWNER, made, SubnetUpdate(enable_dhcp=True))

    def build() -> Any:
        return network.allocate_for_instance("s", ALICE, "vm", "h1", "az", asked)

    (vif,) = meanwhile(network, change, build)
    assert vif.addresses[0].subnet.dhcp_address is not None


def test_a_subnet_whose_network_went_is_not_found(alice: Caller, network: BuiltinNetwork, net: str) -> None:
    made = alice.create("subnet", network_id=net, cidr="10.0.0.0/24")["id"]
    with network.db.read() as conn:
        subnet = subnets.find(conn, OWNER, made)
    alice.delete("network", net)
    with network.db.read() as conn, pytest.raises(SubnetNotFound):
        subnets.owners(conn, subnet)


def test_a_network_that_goes_under_an_attach_is_not_found(
    alice: Caller, network: BuiltinNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes while the attach waits for its turn at the quota."""
    net = str(alice.create("network")["id"])
    alice.create("subnet", network_id=net, cidr="10.0.0.0/24")
    check = interfaces.quotas.check

    def wait_and_check(conn: Any, config: Config, project: str, resource: str, **more: Any) -> None:
        networks.delete(conn, OWNER, net)
        check(conn, config, project, resource, **more)

    monkeypatch.setattr(interfaces.quotas, "check", wait_and_check)
    monkeypatch.setattr(interfaces, "validate", lambda *asked: asked[3])
    seat = Seat(server_id="s", project_id=ALICE, hostname="vm", host="h1", availability_zone="az")
    with pytest.raises(NotFound, match=net):
        network.attach(OWNER, seat, RequestedNetwork(network_id=net))


def test_a_group_is_not_taken_back_under_a_port(alice: Caller, bob: Caller, network: BuiltinNetwork) -> None:
    """Who begins to use it while the policy goes finds it gone."""
    group = alice.create("security_group")["id"]
    body = {"object_type": "security_group", "object_id": group, "target_tenant": BOB}
    made = alice("POST", "/rbac-policies", {"rbac_policy": body | {"action": "access_as_shared"}})
    policy = made.json["rbac_policy"]["id"]
    net = bob.create("network")["id"]

    def use() -> int:
        return int(post(bob, "port", network_id=net, security_groups=[group]).status_code)

    assert meanwhile(network, lambda conn: rbac.delete(conn, OWNER, policy), use) == 404


def test_what_is_deleted_meanwhile_is_not_there(alice: Caller, net: str, network: BuiltinNetwork) -> None:
    """``If-Match`` of who has read it: not "of another revision"."""
    port = alice.create("port", network_id=net)
    read = {"If-Match": f"revision_number={port['revision_number']}"}

    def change() -> int:
        path, body = path_of("port"), {"port": {"name": "n"}}
        return int(alice("PUT", f"{path}/{port['id']}", body, headers=read).status_code)

    assert meanwhile(network, lambda conn: ports.delete(conn, OWNER, port["id"]), change) == 404


def test_an_address_group_is_not_taken_back_under_a_rule(
    alice: Caller, bob: Caller, network: BuiltinNetwork
) -> None:
    group = alice.create("address_group")["id"]
    body = {"object_type": "address_group", "object_id": group, "target_tenant": BOB}
    made = alice("POST", "/rbac-policies", {"rbac_policy": body | {"action": "access_as_shared"}})
    policy = made.json["rbac_policy"]["id"]
    own = bob.create("security_group")["id"]

    def use() -> int:
        rule = {"security_group_id": own, "direction": "ingress", "remote_address_group_id": group}
        return int(post(bob, "security_group_rule", **rule).status_code)

    assert meanwhile(network, lambda conn: rbac.delete(conn, OWNER, policy), use) == 404
