"""Each extension that is announced works: for each a request that only a service with it answers so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from kilonova.domain.hosts import Capacity, HostReport
from kilonova.network.builtin.service import BuiltinNetwork
from kilonova.store import hosts

from .conftest import ALICE, BOB, Caller

_REPORT = HostReport(
    hypervisor_hostname="h",
    hypervisor_type="QEMU",
    hypervisor_version=1,
    host_ip="192.0.2.1",
    total=Capacity(vcpus=1, memory_mb=1, disk_gb=1),
    follows_network=True,
)


@dataclass(frozen=True)
class Scene:
    """What a proof may use: a network of Alice's with a subnet, and one that leads outside."""

    alice: Caller
    bob: Caller
    admin: Caller
    net: str
    subnet: dict[str, Any]
    public: str

    def port(self, **more: Any) -> dict[str, Any]:
        return self.alice.create("port", network_id=self.net, **more)

    def router(self, **more: Any) -> str:
        """Alice's, joined to her subnet and to the outside."""
        router = self.alice.create("router", external_gateway_info={"network_id": self.public}, **more)["id"]
        path = f"/routers/{router}/add_router_interface"
        assert self.alice("PUT", path, {"subnet_id": self.subnet["id"]}).status_code == 200
        return str(router)


@pytest.fixture
def scene(
    alice: Caller, bob: Caller, admin: Caller, net: str, subnet: dict[str, Any], network: BuiltinNetwork
) -> Scene:
    public = admin.create("network", name="public", is_default=True, **{"router:external": True})["id"]
    admin.create("subnet", network_id=public, cidr="198.51.100.0/24", enable_dhcp=False)
    with network.db.write() as conn:
        hosts.report_all(conn, {"h": _REPORT}, "nova", network.config.compute)
    return Scene(alice, bob, admin, net, subnet, public)


Proof = Callable[[Scene], None]
PROOFS: dict[str, Proof] = {}


def proves(*aliases: str) -> Callable[[Proof], Proof]:
    def keep(proof: Proof) -> Proof:
        PROOFS.update(dict.fromkeys(aliases, proof))
        return proof

    return keep


@proves("address-group", "security-groups-remote-address-group")
def _(scene: Scene) -> None:
    group = scene.alice.create("address_group", addresses=["10.0.0.0/8", "fd00::1/128"])["id"]
    path = f"/address-groups/{group}/remove_addresses"
    left = scene.alice("PUT", path, {"addresses": ["fd00::1/128"]}).json["address_group"]["addresses"]
    assert left == ["10.0.0.0/8"]
    own = scene.alice.create("security_group", name="g")["id"]
    rule = {"security_group_id": own, "direction": "ingress", "remote_address_group_id": group}
    made = scene.alice.create("security_group_rule", **rule)
    assert made["remote_address_group_id"] == group
    found = scene.alice.get("/security-group-rules", remote_address_group_id=group)
    assert [one["id"] for one in found["security_group_rules"]] == [made["id"]]


@proves("agent")
def _(scene: Scene) -> None:
    listed = scene.admin.get("/agents", host="h")["agents"]
    assert [one["agent_type"] for one in listed] == [
        *("Linux bridge agent", "L3 agent", "DHCP agent", "Metadata agent"),
    ]
    (layer3,) = scene.admin.get("/agents", agent_type="L3 agent", alive="True")["agents"]
    assert scene.admin.get(f"/agents/{layer3['id']}")["agent"] == layer3


@proves("service-type")
def _(scene: Scene) -> None:
    (provider,) = scene.alice.get("/service-providers", service_type="L3_ROUTER_NAT")["service_providers"]
    assert (provider["name"], provider["default"]) == ("single_node", True)
    assert scene.alice.get("/service-providers", name="other")["service_providers"] == []


@proves("allowed-address-pairs")
def _(scene: Scene) -> None:
    port = scene.port(allowed_address_pairs=[{"ip_address": "10.9.0.0/16"}])
    (pair,) = port["allowed_address_pairs"]
    assert pair == {"ip_address": "10.9.0.0/16", "mac_address": port["mac_address"]}


@proves("auto-allocated-topology", "default-subnetpools", "subnet_allocation")
def _(scene: Scene) -> None:
    pool = scene.admin.create(
        "subnetpool", prefixes=["10.64.0.0/16"], default_prefixlen=24, is_default=True, shared=True
    )
    net = scene.alice.create("network")["id"]
    sub = scene.alice.create("subnet", network_id=net, ip_version=4, use_default_subnetpool=True)
    assert (sub["cidr"], sub["subnetpool_id"]) == ("10.64.0.0/24", pool["id"])
    made = scene.bob.get(f"/auto-allocated-topology/{BOB}")["auto_allocated_topology"]["id"]
    assert [one["cidr"] for one in scene.bob.get("/subnets", network_id=made)["subnets"]] == ["10.64.1.0/24"]


@proves("availability_zone", "router_availability_zone")
def _(scene: Scene) -> None:
    listed = scene.alice.get("/availability_zones", resource="router")["availability_zones"]
    assert listed == [{"name": "nova", "resource": "router", "state": "available"}]
    router = scene.router(availability_zone_hints=["nova"])
    shown = scene.alice.get(f"/routers/{router}")["router"]
    assert (shown["availability_zone_hints"], shown["availability_zones"]) == (["nova"], ["nova"])


@proves("binding")
def _(scene: Scene) -> None:
    port = scene.admin.get(f"/ports/{scene.port()['id']}")["port"]
    assert (port["binding:vif_type"], port["binding:vnic_type"], port["binding:host_id"]) == (
        *("unbound", "normal"),
        "",
    )
    assert scene.admin.ids("ports", **{"binding:host_id": "elsewhere"}) == []


@proves(
    "expose-port-forwarding-in-fip",
    "floating-ip-port-forwarding",
    "floating-ip-port-forwarding-description",
    "floating-ip-port-forwarding-detail",
    "floating-ip-port-forwarding-port-ranges",
)
def _(scene: Scene) -> None:
    scene.router()
    floating = scene.alice.create("floatingip", floating_network_id=scene.public)["id"]
    asked = {
        "internal_port_id": scene.port()["id"],
        "protocol": "tcp",
        "external_port_range": "80:81",
        "internal_port_range": "8080:8081",
        "description": "web",
    }
    path = f"/floatingips/{floating}/port_forwardings"
    made = scene.alice("POST", path, {"port_forwarding": asked}).json["port_forwarding"]
    assert {name: made[name] for name in asked} == asked
    assert scene.alice.get(f"/floatingips/{floating}")["floatingip"]["port_forwardings"] == [made]


@proves("empty-string-filtering")
def _(scene: Scene) -> None:
    named, unnamed = scene.port(name="p")["id"], scene.port()["id"]
    found = scene.alice.ids("ports", name="", device_owner="")
    assert unnamed in found
    assert named not in found


@proves("extra_dhcp_opt")
def _(scene: Scene) -> None:
    told = [{"opt_name": "bootfile-name", "opt_value": "pxelinux.0", "ip_version": 4}]
    port = scene.port(extra_dhcp_opts=told)
    assert port["extra_dhcp_opts"] == told
    shown = scene.alice.get(f"/ports/{port['id']}")["port"]
    assert shown["extra_dhcp_opts"] == told


@proves("ext-gw-mode", "external-net", "router")
def _(scene: Scene) -> None:
    assert scene.alice.ids("networks", **{"router:external": True}) == [scene.public]
    router = scene.router()
    assert scene.alice.get(f"/routers/{router}")["router"]["status"] == "ACTIVE"
    gateway = {"network_id": scene.public, "enable_snat": False}
    changed = scene.admin.update("router", router, external_gateway_info=gateway)
    assert changed["external_gateway_info"]["enable_snat"] is False
    made = scene.alice.create("floatingip", floating_network_id=scene.public, port_id=scene.port()["id"])
    assert (made["router_id"], made["status"]) == (router, "ACTIVE")


@proves("extraroute", "extraroute-atomic")
def _(scene: Scene) -> None:
    router = scene.router()
    one, two = ({"destination": f"192.168.{n}.0/24", "nexthop": "10.0.0.9"} for n in (1, 2))
    assert scene.alice.update("router", router, routes=[one])["routes"] == [one]
    added = scene.alice("PUT", f"/routers/{router}/add_extraroutes", {"router": {"routes": [two]}})
    assert added.json["router"]["routes"] == [one, two]
    removed = scene.alice("PUT", f"/routers/{router}/remove_extraroutes", {"router": {"routes": [one]}})
    assert removed.json["router"]["routes"] == [two]


@proves("filter-validation")
def _(scene: Scene) -> None:
    for plural in ("networks", "subnets", "ports", "routers", "floatingips", "security-groups"):
        assert scene.alice.refused("GET", f"/{plural}?no_such_thing=1")[0] == 400


@proves("fip-port-details")
def _(scene: Scene) -> None:
    scene.router()
    port = scene.port(name="p", device_id="d")
    made = scene.alice.create("floatingip", floating_network_id=scene.public, port_id=port["id"])
    assert made["port_details"]["name"] == "p"
    assert made["port_details"]["device_id"] == "d"


@proves("ip-substring-filtering")
def _(scene: Scene) -> None:
    port = scene.port(fixed_ips=[{"ip_address": "10.0.0.77"}])["id"]
    assert scene.alice.ids("ports", fixed_ips="ip_address_substr=.0.77") == [port]


@proves("net-mtu", "net-mtu-writable")
def _(scene: Scene) -> None:
    assert scene.alice.update("network", scene.net, mtu=1300)["mtu"] == 1300
    assert scene.alice.ids("networks", mtu="1300") == [scene.net]


@proves("network-ip-availability")
def _(scene: Scene) -> None:
    (shown,) = scene.admin.get("/network-ip-availabilities", network_name="net")["network_ip_availabilities"]
    assert (shown["used_ips"], shown["total_ips"]) == (1, 253)


@proves("pagination", "sorting")
def _(scene: Scene) -> None:
    for name in ("b", "a"):
        scene.alice.create("network", name=name)
    page = scene.alice.get("/networks", sort_key="name", sort_dir="desc", limit=2)
    assert [one["name"] for one in page["networks"]] == ["public", "net"]
    following = scene.alice.get(
        "/networks", sort_key="name", sort_dir="desc", marker=page["networks"][1]["id"]
    )
    assert [one["name"] for one in following["networks"]] == ["b", "a"]
    assert [one["rel"] for one in page["networks_links"]] == ["next"]


@proves("port-security")
def _(scene: Scene) -> None:
    assert scene.port(port_security_enabled=False, security_groups=[])["port_security_enabled"] is False
    net = scene.alice.create("network", port_security_enabled=False)["id"]
    assert scene.alice.create("port", network_id=net)["port_security_enabled"] is False


@proves("port-security-groups-filtering", "security-group")
def _(scene: Scene) -> None:
    group = scene.alice.create("security_group", name="g")["id"]
    rule = {"security_group_id": group, "direction": "ingress", "protocol": "tcp", "port_range_min": 22}
    made = scene.alice.create("security_group_rule", **rule, port_range_max=22)
    port = scene.port(security_groups=[group])["id"]
    assert scene.alice.ids("ports", security_groups=group) == [port]
    rules = scene.alice.get(f"/security-groups/{group}")["security_group"]["security_group_rules"]
    assert made["id"] in [one["id"] for one in rules]


@proves("project-id")
def _(scene: Scene) -> None:
    assert scene.admin.ids("networks", project_id=ALICE) == [scene.net]
    shown = scene.admin.get(f"/networks/{scene.net}")["network"]
    assert shown["project_id"] == shown["tenant_id"] == ALICE


@proves("provider")
def _(scene: Scene) -> None:
    made = scene.admin.create("network", **{"provider:segmentation_id": 77})
    assert (made["provider:network_type"], made["provider:segmentation_id"]) == ("vxlan", 77)
    assert scene.admin.ids("networks", **{"provider:network_type": "flat"}) == [scene.public]


@proves("quota-check-limit", "quota_details", "quotas")
def _(scene: Scene) -> None:
    path, low = f"/quotas/{ALICE}", {"network": 0}
    assert scene.admin.refused("PUT", path, {"quota": {**low, "check_limit": True}})[0] == 409
    assert scene.admin("PUT", path, {"quota": low}).status_code == 200
    details = scene.alice.get(f"{path}/details")["quota"]["network"]
    assert details == {"limit": 0, "used": 1, "reserved": 0}
    assert scene.alice.refused_create("network") == (409, "OverQuota")


@proves("security-groups-shared-filtering", "rbac-security-groups")
def _(scene: Scene) -> None:
    group = scene.alice.create("security_group", name="g")["id"]
    policy = {"object_type": "security_group", "object_id": group, "action": "access_as_shared"}
    scene.alice("POST", "/rbac-policies", {"rbac_policy": {**policy, "target_tenant": BOB}})
    listed = scene.bob.get("/security-groups", shared="True")["security_groups"]
    assert [(one["id"], one["shared"]) for one in listed] == [(group, True)]


@proves("rbac-policies")
def _(scene: Scene) -> None:
    policy = {"object_type": "network", "object_id": scene.net, "action": "access_as_shared"}
    made = scene.alice("POST", "/rbac-policies", {"rbac_policy": {**policy, "target_tenant": BOB}})
    assert made.status_code == 201
    assert scene.bob.get(f"/networks/{scene.net}")["network"]["shared"] is True


@proves("security-groups-normalized-cidr")
def _(scene: Scene) -> None:
    group = scene.alice.create("security_group", name="g")["id"]
    rule = {"security_group_id": group, "direction": "ingress", "remote_ip_prefix": "10.1.2.3/8"}
    made = scene.alice.create("security_group_rule", **rule)
    assert made["normalized_cidr"] == "10.0.0.0/8"
    query = {"normalized_cidr": "10.0.0.0/8", "sort_key": "normalized_cidr"}
    found = scene.alice.get("/security-group-rules", **query)["security_group_rules"]
    assert [one["id"] for one in found] == [made["id"]]


@proves("security-groups-rules-belongs-to-default-sg")
def _(scene: Scene) -> None:
    scene.alice.create("security_group", name="g")
    for asked in (True, False):
        query = {"belongs_to_default_sg": asked, "sort_key": "belongs_to_default_sg"}
        found = scene.alice.get("/security-group-rules", **query)["security_group_rules"]
        assert {one["belongs_to_default_sg"] for one in found} == {asked}


_STANDARD = (
    *("network", "subnet", "subnetpool", "port", "router", "floatingip"),
    *("security_group", "address_group"),
)


def one_of_each(scene: Scene, **more: Any) -> dict[str, dict[str, Any]]:
    """The resources with Neutron's standard attributes."""
    needed: dict[str, dict[str, Any]] = {
        "subnet": {"network_id": scene.net, "cidr": "10.5.0.0/24"},
        "subnetpool": {"prefixes": ["10.64.0.0/16"]},
        "port": {"network_id": scene.net},
        "floatingip": {"floating_network_id": scene.public},
        "security_group": {"name": "g"},
    }
    return {kind: scene.alice.create(kind, **needed.get(kind, {}), **more) for kind in _STANDARD}


@proves("standard-attr-description")
def _(scene: Scene) -> None:
    for kind, made in one_of_each(scene, description="a").items():
        assert made["description"] == "a"
        assert scene.alice.update(kind, made["id"], description="b")["description"] == "b"


@proves("standard-attr-revisions", "standard-attr-timestamp")
def _(scene: Scene) -> None:
    for kind, made in one_of_each(scene).items():
        changed = scene.alice.update(kind, made["id"], description="b")
        assert changed["revision_number"] > made["revision_number"]
        assert changed["created_at"] == made["created_at"] <= changed["updated_at"]
        path = "/" + (kind.replace("_", "-")) + "s"
        (plural,) = set(scene.alice.get(path)) - {f"{kind}s_links"}
        since = scene.alice.get(path, changed_since=made["created_at"])[plural]
        assert made["id"] in [one["id"] for one in since]
        assert scene.alice.get(path, changed_since="2999-01-01T00:00:00")[plural] == []


@proves("security-groups-default-rules")
def _(scene: Scene) -> None:
    ssh = {"direction": "ingress", "protocol": "tcp", "port_range_min": 22, "port_range_max": 22}
    rule = scene.admin.create("default_security_group_rule", **ssh)
    got = scene.alice.create("security_group", name="g")["security_group_rules"]
    assert [one["port_range_min"] for one in got if one["direction"] == "ingress"] == [22]
    scene.admin.delete("default_security_group_rule", rule["id"])


@proves("rbac-address-group", "address-groups-shared-filtering")
def _(scene: Scene) -> None:
    group = scene.alice.create("address_group", name="offices")["id"]
    shared = {"object_type": "address_group", "object_id": group, "target_tenant": BOB}
    body = {"rbac_policy": {**shared, "action": "access_as_shared"}}
    assert scene.alice("POST", "/rbac-policies", body).status_code == 201
    found = scene.bob.get("/address-groups", shared=True)["address_groups"]
    assert [one["id"] for one in found] == [group]


@proves("subnet-service-types")
def _(scene: Scene) -> None:
    own = {"network_id": scene.net, "cidr": "10.5.0.0/24", "service_types": ["compute:special"]}
    subnet = scene.admin.create("subnet", **own)["id"]
    (fixed,) = scene.port(device_owner="compute:special")["fixed_ips"]
    assert fixed["subnet_id"] == subnet
    (fixed,) = scene.port()["fixed_ips"]
    assert fixed["subnet_id"] == scene.subnet["id"]


@proves("revision-if-match")
def _(scene: Scene) -> None:
    made = one_of_each(scene)
    of_group = {"security_group_id": made["security_group"]["id"], "direction": "ingress"}
    made["security_group_rule"] = scene.alice.create("security_group_rule", **of_group)
    for kind in reversed(made):
        path = f"/{kind.replace('_', '-')}s/{made[kind]['id']}"
        old = {"If-Match": "revision_number=999"}
        for method, body in (("PUT", {kind: {"description": "b"}}), ("DELETE", None)):
            was = scene.alice.get(path)[kind]  # making or changing its rules is a revision of a group
            refused = scene.alice(method, path, body, headers=old)
            assert refused.status_code == 412, (kind, method)
            assert refused.json["NeutronError"]["type"] == "RevisionNumberConstraintFailed"
            assert scene.alice.get(path)[kind] == was
            for nonsense in ("*", '"abc"', "revision_number=x"):
                assert scene.alice(method, path, body, headers={"If-Match": nonsense}).status_code == 400
            current = {"If-Match": f"revision_number={was['revision_number']}"}
            assert scene.bob(method, path, body, headers=current).status_code == 404
            done = scene.alice(method, path, body, headers=current)
            assert done.status_code in (200, 204), (kind, method, done.text)
            old = current


@proves("standard-attr-tag", "tag-creation")
def _(scene: Scene) -> None:
    for kind, made in one_of_each(scene).items():
        path = f"/{kind.replace('_', '-')}s"
        one = f"{path}/{made['id']}/tags"
        assert scene.alice("POST", one, {"tags": ["a"]}).status_code == 201
        assert scene.alice("PUT", f"{one}/b").status_code == 201
        assert scene.alice.get(one) == {"tags": ["a", "b"]}
        (found,) = scene.alice.get(path, tags="a,b")[f"{kind}s"]
        assert (found["id"], found["tags"]) == (made["id"], ["a", "b"])


def announced(caller: Caller) -> list[str]:
    return [item["alias"] for item in caller.get("/extensions")["extensions"]]


def test_there_is_a_proof_for_each(alice: Caller) -> None:
    assert sorted(PROOFS) == sorted(announced(alice))


@pytest.mark.parametrize("proof", sorted({proof: alias for alias, proof in PROOFS.items()}.values()))
def test_what_is_announced_is_there(scene: Scene, proof: str) -> None:
    PROOFS[proof](scene)


def test_what_is_not_there_is_not_announced(alice: Caller) -> None:
    for alias in announced(alice):
        assert alice.get(f"/extensions/{alias}")["extension"]["alias"] == alias
    missing = {"stateful-security-group", "dvr", "l3-ha", "qos", "trunk", "dns-integration"}
    assert not missing & set(announced(alice))
    assert alice.refused("GET", "/extensions/dvr")[0] == 404
