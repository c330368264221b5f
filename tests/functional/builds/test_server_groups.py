"""Security groups of servers by the Compute API, with the real network service behind it."""

from __future__ import annotations

from typing import Any

import pytest
from tests.functional.builds.cloud import IMAGE, Cloud

SERVERS = "/compute/v2.1/servers"


def make_group(cloud: Cloud, name: str) -> str:
    body = {"security_group": {"name": name}}
    status, made = cloud.ask("POST", "/networking/v2.0/security-groups", body)
    assert status == 201, made
    return str(made["security_group"]["id"])


def names(cloud: Cloud, server: str) -> list[str]:
    return sorted(group["name"] for group in cloud.server(server).get("security_groups", []))


@pytest.fixture
def net(cloud: Cloud) -> str:
    return cloud.make_network()


def test_groups_by_name_and_by_id(cloud: Cloud, net: str) -> None:
    web, db = make_group(cloud, "web"), make_group(cloud, "db")
    asked = [{"name": "web"}, {"name": db}, {"name": "default"}]
    assert names(cloud, cloud.active(net, security_groups=asked)) == ["db", "default", "web"]
    assert names(cloud, cloud.active(net)) == ["default"]
    assert names(cloud, cloud.active(net, security_groups=[{"name": web}])) == ["web"]


def test_what_a_create_answers(cloud: Cloud, net: str) -> None:
    make_group(cloud, "twice")
    make_group(cloud, "twice")
    for asked, status, says in (
        ("nothing", 400, "Security group nothing not found."),
        ("twice", 409, "Multiple security groups"),
    ):
        server = {"name": "vm", "imageRef": IMAGE, "flavorRef": "42", "networks": [{"uuid": net}]}
        server["security_groups"] = [{"name": asked}]
        got, answer = cloud.ask("POST", SERVERS, {"server": server})
        assert got == status, answer
        assert says in str(answer)


def test_a_group_that_went_meanwhile_is_a_fault(cloud: Cloud, net: str) -> None:
    group = make_group(cloud, "web")
    server = cloud.create(net, security_groups=[{"name": "web"}])
    # Whichever comes first: the build with the group, or the group's end.
    cloud.ask("DELETE", f"/networking/v2.0/security-groups/{group}")
    shown = cloud.settled(server)
    assert shown["status"] in ("ACTIVE", "ERROR")
    if shown["status"] == "ERROR":
        assert f"Security group {group} does not exist" in shown["fault"]["message"]


def test_add_remove_and_show(cloud: Cloud, net: str) -> None:
    server = cloud.active(net)
    web = make_group(cloud, "web")
    rule: dict[str, Any] = {"security_group_id": web, "direction": "ingress", "protocol": "icmp"}
    assert cloud.ask("POST", "/networking/v2.0/security-group-rules", {"security_group_rule": rule})[0] == 201
    assert cloud.act(server, "addSecurityGroup", {"name": "web"}) == 202
    assert cloud.act(server, "addSecurityGroup", {"name": "web"}) == 202
    assert names(cloud, server) == ["default", "web"]
    status, shown = cloud.ask("GET", f"{SERVERS}/{server}/os-security-groups")
    assert status == 200
    (found,) = [group for group in shown["security_groups"] if group["name"] == "web"]
    (own,) = found.pop("rules")
    assert set(found) == {"id", "name", "description", "tenant_id"}
    assert own == {
        "id": own["id"],
        "parent_group_id": web,
        "ip_protocol": "icmp",
        "from_port": -1,
        "to_port": -1,
        "group": {},
        "ip_range": {"cidr": "0.0.0.0/0"},
    }
    (default,) = [group for group in shown["security_groups"] if group["name"] == "default"]
    assert {rule["group"]["name"] for rule in default["rules"]} == {"default"}

    assert cloud.act(server, "removeSecurityGroup", {"name": "default"}) == 202
    assert names(cloud, server) == ["web"]
    assert cloud.act(server, "removeSecurityGroup", {"name": "default"}) == 404
    for action in ("addSecurityGroup", "removeSecurityGroup"):
        assert cloud.act(server, action, {"name": "nothing"}) == 404
        assert cloud.act(server, action, {"name": ""}) == 400
    assert cloud.act(cloud.active(), "addSecurityGroup", {"name": "web"}) == 404
    assert cloud.server(server)["security_groups"] == [{"name": "web"}]
    assert cloud.act(server, "removeSecurityGroup", {"name": "web"}) == 202
    assert "security_groups" not in cloud.server(server)  # as Nova: none is shown as nothing


def test_a_group_is_not_promised_where_none_can_be(cloud: Cloud) -> None:
    """A network without port security takes servers in no group; one that shall be in some is refused."""
    net = cloud.make_network()
    body = {"network": {"port_security_enabled": False}}
    assert cloud.ask("PUT", f"/networking/v2.0/networks/{net}", body)[0] == 200
    make_group(cloud, "web")
    assert names(cloud, cloud.active(net, security_groups=[{"name": "default"}])) == []
    shown = cloud.settled(cloud.create(net, security_groups=[{"name": "web"}]))
    assert shown["status"] == "ERROR"
    assert "requires port_security_enabled" in shown["fault"]["message"]
