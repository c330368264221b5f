"""The unmodified openstack client and SDK against the networking API over a real socket."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import openstack
import pytest
from cheroot.wsgi import Server
from openstackclient import shell
from osc_lib.clientmanager import ClientManager

from kilonova.api import network as api
from kilonova.api.http import application
from kilonova.network.builtin.service import BuiltinNetwork

from .conftest import ADMIN, ALICE, authenticate

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning")


@pytest.fixture
def url(network: BuiltinNetwork) -> Iterator[str]:
    """Where the API is served, on a free port of loopback."""
    server = Server(("127.0.0.1", 0), application([api.service(network)], authenticate), numthreads=2)
    server.prepare()
    thread = threading.Thread(target=server.serve)
    thread.start()
    yield f"http://127.0.0.1:{server.bind_addr[1]}/networking"
    server.stop()
    thread.join(timeout=60)


@pytest.fixture
def cli(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """``cli("network", "list")`` as Alice, through the entry point of the ``openstack`` command.

    Answers with the JSON that list, show and create print; where it shall fail, with the client's words.
    In this process, since a new one spends two seconds on imports.
    """
    # The client keeps the first connection of a process for good: let it forget another test's.
    monkeypatch.setattr(vars(ClientManager)["network"], "_handle", None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in [name for name in os.environ if name.startswith("OS_")]:
        monkeypatch.delenv(name)

    def run(*words: str, fails: bool = False) -> Any:
        as_json = ["-f", "json"] if {"list", "show", "create"} & set(words[1:4]) else []
        auth = ["--os-auth-type", "admin_token", "--os-endpoint", url, "--os-token", "alice"]
        with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
            status = shell.main([*auth, *words, *as_json])
        assert (status != 0) == fails, err.getvalue()
        if fails:
            return err.getvalue()
        return json.loads(out.getvalue()) if as_json else out.getvalue()

    return run


@pytest.fixture
def sdk(url: str) -> Iterator[Any]:
    connection = openstack.connect(
        load_yaml_config=False,
        load_envvars=False,
        auth_type="admin_token",
        auth={"endpoint": url, "token": "admin"},
    )
    yield connection.network
    connection.close()


def test_a_day_with_the_command_line(cli: Callable[..., Any]) -> None:
    net = cli("network", "create", "red", "--mtu", "1400", "--tag", "t", "--description", "d")
    assert (net["name"], net["mtu"], net["status"]) == ("red", 1400, "ACTIVE")
    sub = cli(
        *("subnet", "create", "sub", "--network", "red", "--subnet-range", "10.0.0.0/24"),
        *("--gateway", "10.0.0.254", "--dns-nameserver", "9.9.9.9"),
        *("--allocation-pool", "start=10.0.0.10,end=10.0.0.20"),
        *("--host-route", "destination=192.168.0.0/24,gateway=10.0.0.7"),
    )
    assert sub["host_routes"] == [{"destination": "192.168.0.0/24", "nexthop": "10.0.0.7"}]
    port = cli("port", "create", "p", "--network", "red", "--fixed-ip", "subnet=sub,ip-address=10.0.0.99")
    assert port["fixed_ips"] == [{"subnet_id": sub["id"], "ip_address": "10.0.0.99"}]
    assert port["tags"] == []

    cli("network", "set", "red", "--name", "blue", "--tag", "u")
    cli("network", "unset", "blue", "--tag", "t")
    shown = cli("network", "show", "blue")
    assert (shown["tags"], shown["subnets"]) == (["u"], [sub["id"]])
    cli("subnet", "set", "sub", "--dns-nameserver", "1.1.1.1", "--no-dhcp")
    cli("subnet", "unset", "sub", "--dns-nameserver", "9.9.9.9")
    assert cli("subnet", "show", "sub")["dns_nameservers"] == ["1.1.1.1"]
    cli("port", "set", "p", "--fixed-ip", "subnet=sub", "--device-owner", "me")
    cli("port", "set", "p", "--no-security-group", "--disable-port-security")
    cli("port", "unset", "p", "--fixed-ip", "subnet=sub,ip-address=10.0.0.99")
    (fixed,) = cli("port", "show", "p")["fixed_ips"]
    assert fixed["ip_address"].startswith("10.0.0.1")

    assert [item["Name"] for item in cli("network", "list", "--tags", "u")] == ["blue"]
    assert [item["Name"] for item in cli("subnet", "list", "--network", "blue")] == ["sub"]
    assert [item["Name"] for item in cli("port", "list", "--fixed-ip", "subnet=sub")] == ["p"]
    assert "in use" in cli("network", "delete", "blue", fails=True)
    cli("port", "delete", "p")
    cli("subnet", "delete", "sub")
    cli("network", "delete", "blue")
    assert cli("network", "list") == []


def test_security_groups_with_the_command_line(cli: Callable[..., Any]) -> None:
    assert [item["Name"] for item in cli("security", "group", "list")] == ["default"]
    web = cli("security", "group", "create", "web", "--tag", "t")
    assert (web["stateful"], len(web["rules"]), web["tags"]) == (True, 2, ["t"])
    words = ("--protocol", "tcp", "--dst-port", "80:81", "--remote-ip", "10.0.0.0/8", "web")
    rule = cli("security", "group", "rule", "create", *words)
    assert (rule["direction"], rule["port_range_min"], rule["port_range_max"]) == ("ingress", 80, 81)
    assert "already exists" in cli("security", "group", "rule", "create", *words, fails=True)
    cli("security", "group", "rule", "create", "--remote-group", "default", "web")
    cli("security", "group", "rule", "create", "--protocol", "icmp", "--icmp-type", "8", "web")
    assert len(cli("security", "group", "rule", "list", "web")) == 5
    cli("security", "group", "rule", "delete", rule["id"])
    cli("security", "group", "set", "web", "--name", "www", "--description", "d", "--tag", "u")
    cli("network", "create", "n")
    cli("port", "create", "p", "--network", "n", "--security-group", "www")
    assert "in use" in cli("security", "group", "delete", "www", fails=True)
    (default,) = [item["ID"] for item in cli("security", "group", "list") if item["Name"] == "default"]
    cli("port", "set", "p", "--security-group", "default")
    assert set(cli("port", "show", "p")["security_group_ids"]) == {web["id"], default}
    cli("port", "unset", "p", "--security-group", "www")
    assert [item["Name"] for item in cli("port", "list", "--security-group", default)] == ["p"]
    cli("security", "group", "delete", "www")


def test_default_rules_by_the_command_line(cli: Callable[..., Any], sdk: Any) -> None:
    """Everybody sees them; who makes and deletes them is an admin, here by the SDK."""
    ssh = sdk.create_default_security_group_rule(
        **{"direction": "ingress", "protocol": "tcp", "port_range_min": 22, "port_range_max": 22}
    )
    listed = ("default", "security", "group", "rule", "list", "-f", "json")
    shown = json.loads(cli(*listed))
    assert [one["Port Range"] for one in shown if one["ID"] == ssh.id] == ["22:22"]
    made = cli("security", "group", "create", "web")
    ingress = [one for one in made["rules"] if one["direction"] == "ingress"]
    assert [(one["protocol"], one["port_range_min"]) for one in ingress] == [("tcp", 22)]
    sdk.delete_default_security_group_rule(ssh)
    assert ssh.id not in [one["ID"] for one in json.loads(cli(*listed))]


def test_refusals_reach_the_user(cli: Callable[..., Any]) -> None:
    assert "disallowed by policy" in cli("network", "create", "x", "--external", fails=True)
    assert "disallowed by policy" in cli("network", "create", "x", "--share", fails=True)
    assert "No Network found" in cli("network", "show", "nothing", fails=True)
    assert "must be the same value" in cli(
        *("subnet", "create", "s", "--network", cli("network", "create", "x")["id"]),
        *("--ip-version", "6", "--subnet-range", "fd00::/64"),
        *("--ipv6-ra-mode", "slaac", "--ipv6-address-mode", "dhcpv6-stateless"),
        fails=True,
    )


def test_the_sdk(sdk: Any) -> None:
    for n in range(5):
        sdk.create_network(name=f"n{n}", project_id=ALICE)
    assert [item.name for item in sdk.networks(limit=2, sort_key="name")] == [f"n{n}" for n in range(5)]
    net = sdk.find_network("n3", ignore_missing=False)
    assert sdk.find_network("nothing") is None
    sub = sdk.create_subnet(network_id=net.id, ip_version=4, cidr="10.0.0.0/24")
    assert sub.is_dhcp_enabled
    port = sdk.create_port(network_id=net.id, fixed_ips=[{"subnet_id": sub.id}])
    assert sdk.update_port(port, name="new").name == "new"
    sdk.set_tags(port, ["a"])
    assert [item.id for item in sdk.ports(network_id=net.id, tags="a")] == [port.id]
    assert sdk.find_extension("port-security")
    assert sdk.find_extension("security-group")
    assert sdk.find_extension("dvr") is None
    assert sdk.update_quota(ADMIN, ports=3, check_limit=True).ports == 3
    assert sdk.get_quota(ADMIN, details=True).ports == {"limit": 3, "used": 1, "reserved": 0}
    assert sdk.get_quota_default(ADMIN).ports == 500
    sdk.delete_quota(ADMIN)
    sdk.delete_port(port, ignore_missing=False)
    sdk.delete_subnet(sub, ignore_missing=False)
    sdk.delete_network(net, ignore_missing=False)


def test_a_router_by_the_command_line(cli: Callable[..., Any], sdk: Any) -> None:
    public = sdk.create_network(name="public", is_router_external=True)
    sdk.create_subnet(network_id=public.id, ip_version=4, cidr="198.51.100.0/24")
    cli("network", "create", "red")
    cli("subnet", "create", "sub", "--network", "red", "--subnet-range", "10.0.0.0/24")
    assert [item["Name"] for item in cli("network", "list", "--external")] == ["public"]
    router = cli("router", "create", "r", "--tag", "t")
    assert (router["external_gateway_info"], router["tags"]) == (None, ["t"])
    cli("router", "add", "subnet", "r", "sub")
    cli("router", "set", "r", "--external-gateway", "public")
    cli("router", "set", "r", "--route", "destination=192.168.0.0/24,gateway=10.0.0.9")
    cli("router", "add", "route", "r", "--route", "destination=192.168.1.0/24,gateway=10.0.0.9")
    shown = cli("router", "show", "r")
    assert [item["ip_address"] for item in shown["interfaces_info"]] == ["10.0.0.1"]
    assert len(shown["routes"]) == 2
    assert shown["external_gateway_info"]["network_id"] == public.id
    port = cli("port", "create", "p", "--network", "red")
    made = cli("floating", "ip", "create", "public", "--port", "p")
    assert made["fixed_ip_address"] == port["fixed_ips"][0]["ip_address"]
    (listed,) = sdk.ips(port_id=port["id"])
    assert listed.router_id == router["id"]
    address = made["floating_ip_address"]
    cli("floating", "ip", "unset", address, "--port")
    cli("floating", "ip", "set", address, "--port", "p", "--description", "new")
    assert "still has ports" in cli("router", "delete", "r", fails=True)
    cli("floating", "ip", "delete", address)
    cli("router", "unset", "r", "--route", "destination=192.168.0.0/24,gateway=10.0.0.9")
    cli("router", "remove", "route", "r", "--route", "destination=192.168.1.0/24,gateway=10.0.0.9")
    cli("router", "unset", "r", "--external-gateway")
    cli("router", "remove", "subnet", "r", "sub")
    cli("router", "delete", "r")
    assert list(sdk.routers()) == []


def test_pools_and_topologies_by_the_command_line(cli: Callable[..., Any], sdk: Any) -> None:
    outside = sdk.create_network(name="public", is_router_external=True, is_default=True)
    sdk.create_subnet(network_id=outside.id, ip_version=4, cidr="198.51.100.0/24")
    made = cli(
        *("subnet", "pool", "create", "p", "--pool-prefix", "10.64.0.0/16", "--default-prefix-length", "24"),
        *("--min-prefix-length", "20", "--max-prefix-length", "28", "--default-quota", "4096", "--tag", "t"),
    )
    assert (made["default_prefixlen"], made["default_quota"], made["tags"]) == (24, 4096, ["t"])
    cli("subnet", "pool", "set", "p", "--pool-prefix", "10.65.0.0/16", "--no-address-scope", "--name", "q")
    assert cli("subnet", "pool", "show", "q")["prefixes"] == ["10.64.0.0/15"]
    assert [item["Name"] for item in cli("subnet", "pool", "list", "--no-share", "--no-default")] == ["q"]
    cli("network", "create", "n")
    sub = cli("subnet", "create", "s", "--network", "n", "--subnet-pool", "q", "--prefix-length", "26")
    assert (sub["cidr"], sub["subnetpool_id"]) == ("10.64.0.0/26", made["id"])
    assert "existing allocations" in cli("subnet", "pool", "delete", "q", fails=True)
    assert "update_subnet:service_types" in cli(
        "subnet", "set", "s", "--service-type", "compute:nova", fails=True
    )
    sdk.create_subnet_pool(name="default", prefixes=["10.0.0.0/16"], default_prefixlen=24, is_default=True)
    found = sdk.get_auto_allocated_topology(ADMIN)
    assert [item.cidr for item in sdk.subnets(network_id=found.id)] == ["10.0.0.0/24"]


def test_port_forwardings_by_the_command_line(cli: Callable[..., Any], sdk: Any) -> None:
    public = sdk.create_network(name="public", is_router_external=True)
    sdk.create_subnet(network_id=public.id, ip_version=4, cidr="198.51.100.0/24", is_dhcp_enabled=False)
    cli("network", "create", "net")
    cli("subnet", "create", "--network", "net", "--subnet-range", "10.8.0.0/24", "sub")
    cli("router", "create", "r")
    cli("router", "set", "r", "--external-gateway", "public")
    cli("router", "add", "subnet", "r", "sub")
    port = cli("port", "create", "--network", "net", "p")
    floating = cli("floating", "ip", "create", "public")["floating_ip_address"]
    words = ("floating", "ip", "port", "forwarding")
    asked = ["--port", "p", "--protocol", "tcp", "--internal-ip-address", port["fixed_ips"][0]["ip_address"]]
    ports = ["--external-protocol-port", "8080:8081", "--internal-protocol-port", "80:81"]
    made = json.loads(cli(*words, "create", *asked, *ports, floating, "-f", "json"))
    assert (made["external_port_range"], made["internal_port_range"]) == ("8080:8081", "80:81")
    cli(*words, "set", "--external-protocol-port", "8090:8091", "--description", "web", floating, made["id"])
    (listed,) = json.loads(cli(*words, "list", floating, "-f", "json"))
    assert (listed["External Port Range"], listed["Description"]) == ("8090:8091", "web")
    assert json.loads(cli(*words, "show", floating, made["id"], "-f", "json"))["protocol"] == "tcp"
    cli(*words, "delete", floating, made["id"])
    assert json.loads(cli(*words, "list", floating, "-f", "json")) == []


def test_address_groups_and_dhcp_options_by_the_command_line(cli: Callable[..., Any], sdk: Any) -> None:
    made = cli("address", "group", "create", "--address", "10.0.0.0/8", "friends")
    cli("address", "group", "set", "--address", "192.0.2.1", "friends")
    cli("address", "group", "unset", "--address", "10.0.0.0/8", "friends")
    shown = cli("address", "group", "show", "friends")
    assert shown["addresses"] == ["192.0.2.1/32"]
    cli("security", "group", "create", "g")
    words = ["security", "group", "rule", "create", "--remote-address-group", "friends", "g"]
    rule = cli(*words)
    assert rule["remote_address_group_id"] == made["id"]
    assert "in use" in cli("address", "group", "delete", "friends", fails=True)
    cli("network", "create", "net")
    option = "name=bootfile-name,value=pxelinux.0"
    port = cli("port", "create", "--network", "net", "--extra-dhcp-option", option, "p")
    assert [one["opt_value"] for one in port["extra_dhcp_opts"]] == ["pxelinux.0"]
    assert cli("network", "agent", "list") == []
    assert list(sdk.agents()) == []
    (provider,) = cli("network", "service", "provider", "list")
    assert provider["Name"] == "single_node"
