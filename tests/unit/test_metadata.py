"""What a guest is told about itself: Nova's tree, Amazon's beside it, and the config drive."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from kilonova.domain.metadata import (
    EC2_VERSIONS,
    OPENSTACK_VERSIONS,
    asks_services,
    config_drive_files,
    lookup,
    network_data,
    openstack_files,
    sets_password,
    tells_places,
)
from kilonova.domain.network import HostRoute, PlugKind, Vif, VifAddress, VifSubnet
from kilonova.domain.servers import (
    BuildSpec,
    DevicePlace,
    Flavor,
    GuestMetadata,
    ImageRef,
    TaggedDisk,
    guest_metadata,
)

SUBNET = VifSubnet(
    id="s1",
    cidr="10.0.0.0/24",
    gateway_ip="10.0.0.1",
    dhcp_address="10.0.0.2",
    dns_nameservers=["192.0.2.53"],
)
VIF = Vif(
    port_id="0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0",
    network_id="net",
    mac="fa:16:3e:00:00:01",
    mtu=1450,
    addresses=[VifAddress(ip="10.0.0.5", subnet=SUBNET)],
    tag="front",
)
GUEST = GuestMetadata(
    server_id="11111111-2222-3333-4444-555555555555",
    name="Web 1",
    hostname="web-1",
    project_id="project",
    availability_zone="nova",
    metadata={"role": "web"},
    key_name="mine",
    public_key="ssh-ed25519 AAAA me",
    user_data=b"#!/bin/sh\n",
    admin_password="s3cret",
    instance_type="m1.tiny",
    vifs=[VIF],
    image_id="99999999-2222-3333-4444-555555555555",
    reservation_id="r-abc",
    block_devices={"ami": "vda", "root": "/dev/vda", "ephemeral0": "/dev/vdb"},
)
BARE = msgspec.structs.replace(
    GUEST, metadata={}, key_name=None, public_key=None, user_data=None, admin_password=None, vifs=[]
)


def meta_data(guest: GuestMetadata, version: str = "latest", **more: Any) -> dict[str, Any]:
    return dict(json.loads(openstack_files(guest, version, **more)["meta_data.json"]))


def text(path: str, guest: GuestMetadata = GUEST) -> str:
    found = lookup(guest, path)
    assert found is not None, path
    return found.decode()


def test_meta_data_says_who_the_guest_is() -> None:
    told = meta_data(GUEST)
    assert len(base64.b64decode(told.pop("random_seed"))) == 512
    assert told == {
        "uuid": GUEST.server_id,
        "meta": {"role": "web"},
        "public_keys": {"mine": "ssh-ed25519 AAAA me"},
        "keys": [{"name": "mine", "type": "ssh", "data": "ssh-ed25519 AAAA me"}],
        "hostname": "web-1.novalocal",
        "name": "Web 1",
        "launch_index": 0,
        "availability_zone": "nova",
        "project_id": "project",
        "devices": [
            {
                "type": "nic",
                "bus": "none",
                "address": "none",
                "mac": "fa:16:3e:00:00:01",
                "tags": ["front"],
                "vf_trusted": False,
            }
        ],
        "dedicated_cpus": [],
    }


def test_where_tagged_devices_are() -> None:
    """What the hypervisor does not say, as on a config drive, is "none", in Nova's word."""
    (vif,) = GUEST.vifs
    guest = msgspec.structs.replace(
        GUEST,
        tagged_disks=[
            TaggedDisk(tag="data", path="/dev/sdb", serial="a-volume"),
            TaggedDisk(tag="scratch", path="/dev/vdb"),
            TaggedDisk(tag="cd", path="/dev/sda"),
        ],
        places={
            vif.mac: DevicePlace(bus="pci", address="0000:00:03.0"),
            "a-volume": DevicePlace(bus="scsi", address="0:0:0:1"),
            "/dev/vdb": DevicePlace(bus="pci", address="0000:00:06.0"),
        },
    )
    told = {one["tags"][0]: (one["bus"], one["address"]) for one in meta_data(guest)["devices"]}
    assert told == {
        "front": ("pci", "0000:00:03.0"),
        "data": ("scsi", "0:0:0:1"),
        "scratch": ("pci", "0000:00:06.0"),
        "cd": ("none", "none"),
    }
    assert tells_places(guest, "/openstack/latest/meta_data.json")
    assert not tells_places(guest, "/openstack/latest/user_data")
    assert not tells_places(BARE, "/openstack/latest/meta_data.json")


def test_what_there_is_not_is_not_told() -> None:
    assert not {"meta", "public_keys", "keys", "admin_pass"} & meta_data(BARE).keys()
    assert lookup(BARE, "/openstack/latest/user_data") is None
    assert "user_data" not in text("/openstack/latest/", BARE)
    assert lookup(BARE, "/latest/user-data") is None
    assert lookup(BARE, "/latest/meta-data/public-keys/") is None


def test_the_random_seed_is_another_each_time() -> None:
    assert meta_data(GUEST)["random_seed"] != meta_data(GUEST)["random_seed"]


@pytest.mark.parametrize(
    ("hostname", "domain", "told"),
    [
        ("web-1", "novalocal", "web-1.novalocal"),
        ("web-1", "", "web-1"),
        ("web.example.org", "novalocal", "web.example.org"),
    ],
)
def test_hostname(hostname: str, domain: str, told: str) -> None:
    guest = msgspec.structs.replace(GUEST, hostname=hostname)
    assert meta_data(guest, dhcp_domain=domain)["hostname"] == told


@pytest.mark.parametrize(
    ("version", "files", "fields"),
    [
        ("2012-08-10", set(), set()),
        ("2013-04-04", set(), {"random_seed"}),
        ("2013-10-17", {"vendor_data.json"}, {"random_seed"}),
        ("2015-10-15", {"vendor_data.json", "network_data.json"}, {"random_seed", "project_id"}),
        ("2016-06-30", {"vendor_data.json", "network_data.json"}, {"random_seed", "project_id", "devices"}),
        (
            "2020-10-14",
            {"vendor_data.json", "vendor_data2.json", "network_data.json"},
            {"random_seed", "project_id", "devices", "dedicated_cpus"},
        ),
    ],
)
def test_each_version_has_what_it_had(version: str, files: set[str], fields: set[str]) -> None:
    assert openstack_files(GUEST, version).keys() == {"meta_data.json", "user_data"} | files
    old = meta_data(GUEST, "2012-08-10").keys()
    assert meta_data(GUEST, version).keys() - old == fields


def test_listings() -> None:
    assert text("/").split("\n") == [*EC2_VERSIONS, "latest"]
    assert text("/openstack").split("\n") == [*OPENSTACK_VERSIONS, "latest"]
    assert text("/openstack/latest/").split("\n") == [
        "meta_data.json",
        "network_data.json",
        "password",
        "user_data",
        "vendor_data.json",
        "vendor_data2.json",
    ]
    assert text("/2009-04-04").split("\n") == ["meta-data/", "user-data"]
    assert text("/latest/meta-data/").split("\n") == [
        "ami-id",
        "ami-launch-index",
        "ami-manifest-path",
        "block-device-mapping/",
        "hostname",
        "instance-action",
        "instance-id",
        "instance-type",
        "local-hostname",
        "local-ipv4",
        "placement/",
        "public-hostname",
        "public-ipv4",
        "public-keys/",
        "reservation-id",
    ]
    assert text("/ec2/latest/meta-data/") == text("/latest/meta-data/")
    assert text("/ec2") == text("/")
    assert text("/latest/meta-data/block-device-mapping/").split("\n") == ["ami", "ephemeral0", "root"]
    assert text("/latest/meta-data/public-keys/") == "0=mine"
    assert text("/latest/meta-data/public-keys/0") == "openssh-key"


def test_ec2_values() -> None:
    assert text("/2009-04-04/meta-data/public-keys/0/openssh-key") == "ssh-ed25519 AAAA me"
    assert text("/latest/meta-data/instance-id") == "i-11111111222233334"
    assert text("/latest/meta-data/local-ipv4") == "10.0.0.5"
    assert text("/latest/meta-data/public-ipv4") == ""
    floating = msgspec.structs.replace(VIF, floating_ips={"10.0.0.5": ["198.51.100.9", "198.51.100.10"]})
    reached = msgspec.structs.replace(GUEST, vifs=[floating])
    assert lookup(reached, "/latest/meta-data/public-ipv4") == b"198.51.100.9"
    assert text("/latest/meta-data/placement/availability-zone") == "nova"
    assert text("/latest/user-data") == "#!/bin/sh\n"
    assert "placement/" not in text("/2007-12-15/meta-data/")
    assert "block-device-mapping/" in text("/2007-12-15/meta-data/")
    assert "block-device-mapping/" not in text("/2007-10-10/meta-data/")
    assert text("/latest/meta-data/block-device-mapping/root") == "/dev/vda"
    assert text("/latest/meta-data/ami-id") == "ami-99999999222233334"
    assert text("/latest/meta-data/reservation-id") == "r-abc"
    grouped = msgspec.structs.replace(GUEST, security_groups=["default", "web"])
    assert lookup(grouped, "/1.0/meta-data/security-groups") == b"default\nweb"
    assert b"\nsecurity-groups" in (lookup(grouped, "/latest/meta-data/") or b"")
    assert lookup(GUEST, "/1.0/meta-data/security-groups") is None, "nobody asked for them"


def test_the_password_is_empty_and_only_on_the_config_drive() -> None:
    assert text("/openstack/latest/password") == ""
    assert lookup(GUEST, "/openstack/2012-08-10/password") is None
    assert "admin_pass" not in json.loads(text("/openstack/latest/meta_data.json"))
    on_drive = config_drive_files(GUEST)["openstack/latest/meta_data.json"]
    assert json.loads(on_drive)["admin_pass"] == "s3cret"


def test_the_password_that_the_guest_told() -> None:
    told = msgspec.structs.replace(GUEST, password="c2VjcmV0")
    assert text("/openstack/latest/password", told) == "c2VjcmV0"
    assert not any("password" in path for path in config_drive_files(told))
    for path, may in [
        ("/openstack/latest/password", True),
        ("//openstack/2013-04-04/password/", True),
        ("/openstack/2012-08-10/password", False),
        ("/openstack/1999-01-01/password", False),
        ("/openstack/latest/password/x", False),
        ("/latest/password", False),
        ("/openstack/latest/user_data", False),
    ]:
        assert sets_password(path) is may, path


def test_vendor_data() -> None:
    told = msgspec.structs.replace(GUEST, vendor_data={"a": 1}, vendor_data_dynamic={"b": {"c": 2}})
    assert json.loads(text("/openstack/latest/vendor_data.json", told)) == {"a": 1}
    assert json.loads(text("/openstack/latest/vendor_data2.json", told)) == {
        "static": {"a": 1},
        "b": {"c": 2},
    }
    assert json.loads(text("/openstack/latest/vendor_data2.json")) == {"static": {}}
    drive = config_drive_files(told)
    assert json.loads(drive["openstack/latest/vendor_data2.json"])["b"] == {"c": 2}
    assert asks_services("/openstack/latest/vendor_data2.json")
    assert not asks_services("/openstack/latest/vendor_data.json")


def test_where_the_disks_are() -> None:
    def devices(ephemeral: int = 0, swap: int = 0, bus: str = "", disk_format: str = "raw") -> dict[str, str]:
        properties = {"hw_disk_bus": bus} if bus else {}
        spec = BuildSpec(
            server_id="s",
            name="n",
            hostname="n",
            project_id="p",
            user_id="u",
            flavor=Flavor(
                id="1", name="f", vcpus=1, memory_mb=64, root_gb=1, ephemeral_gb=ephemeral, swap_mb=swap
            ),
            image=ImageRef(id="i", disk_format=disk_format, size=1, properties=properties),
        )
        return guest_metadata(spec, [], None, {}).block_devices

    assert devices() == {"ami": "vda", "root": "/dev/vda"}
    assert devices(swap=1, bus="scsi") == {"ami": "sda", "root": "/dev/sda", "swap": "/dev/sdb"}
    assert devices(1, 1, "ide") == {
        "ami": "hda",
        "root": "/dev/hda",
        "ephemeral0": "/dev/hdb",
        "swap": "/dev/hdc",
    }
    assert devices(disk_format="iso") == {}


def test_config_drive() -> None:
    files = config_drive_files(GUEST)
    assert files["openstack/2018-08-27/user_data"] == b"#!/bin/sh\n"
    assert json.loads(files["ec2/latest/meta-data.json"])["public-keys"] == {
        "0": {"openssh-key": "ssh-ed25519 AAAA me"}
    }
    assert files["ec2/2009-04-04/user-data"] == b"#!/bin/sh\n"
    assert {path.split("/")[1] for path in files if path.startswith("openstack/")} == {
        *OPENSTACK_VERSIONS,
        "latest",
    }
    assert not any("password" in path for path in files)
    assert not any("user" in path for path in config_drive_files(BARE))


@pytest.mark.parametrize(("plug", "kind"), [("bridge", "bridge"), ("ovs", "ovs"), ("ovs-hybrid", "ovs")])
def test_a_link_has_the_type_of_its_plug(plug: PlugKind, kind: str) -> None:
    """Of the host that tells it; on the config drive too."""
    told = structs.replace(GUEST, vifs=[VIF], plug=plug)
    served = lookup(told, "/openstack/latest/network_data.json")
    assert served is not None
    assert [link["type"] for link in json.loads(served)["links"]] == [kind]
    assert config_drive_files(told)["openstack/latest/network_data.json"] == served


def test_network_data_with_dhcp() -> None:
    assert network_data([VIF], "bridge") == {
        "links": [
            {
                "id": "tap0f1e2d3c-4b",
                "vif_id": VIF.port_id,
                "type": "bridge",
                "mtu": 1450,
                "ethernet_mac_address": "fa:16:3e:00:00:01",
            }
        ],
        "networks": [{"id": "network0", "link": "tap0f1e2d3c-4b", "network_id": "net", "type": "ipv4_dhcp"}],
        "services": [{"type": "dns", "address": "192.0.2.53"}],
    }


def test_network_data_without_dhcp_says_all() -> None:
    subnet = msgspec.structs.replace(
        SUBNET, enable_dhcp=False, host_routes=[HostRoute(destination="10.9.0.0/16", nexthop="10.0.0.9")]
    )
    vif = msgspec.structs.replace(VIF, addresses=[VifAddress(ip="10.0.0.5", subnet=subnet)])
    (told,) = network_data([vif], "bridge")["networks"]
    assert told == {
        "id": "network0",
        "link": "tap0f1e2d3c-4b",
        "network_id": "net",
        "type": "ipv4",
        "ip_address": "10.0.0.5",
        "netmask": "255.255.255.0",
        "routes": [
            {"network": "0.0.0.0", "netmask": "0.0.0.0", "gateway": "10.0.0.1"},
            {"network": "10.9.0.0", "netmask": "255.255.0.0", "gateway": "10.0.0.9"},
        ],
        "services": [{"type": "dns", "address": "192.0.2.53"}],
    }


def test_two_addresses_of_a_subnet_are_one_network() -> None:
    vif = msgspec.structs.replace(VIF, addresses=[*VIF.addresses, VifAddress(ip="10.0.0.6", subnet=SUBNET)])
    assert len(network_data([vif], "bridge")["networks"]) == 1


@pytest.mark.parametrize(
    "path",
    [
        "/openstack/2011-01-01",
        "/openstack/latest/meta_data.json/uuid",
        "/openstack/latest/..",
        "/../etc/passwd",
        "/latest/meta-data/hostname/x",
        "/latest/nothing",
        "/favicon.ico",
    ],
)
def test_what_is_nowhere(path: str) -> None:
    assert lookup(GUEST, path) is None


def test_a_double_slash_is_one() -> None:
    assert lookup(GUEST, "//latest//meta-data//hostname/") == b"web-1.novalocal"


def test_no_such_version() -> None:
    with pytest.raises(KeyError):
        openstack_files(GUEST, "1999-01-01")


@given(st.text())
def test_no_path_breaks_it(path: str) -> None:
    assert isinstance(lookup(GUEST, path), bytes | None)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        (None, "ipv6"),
        ("slaac", "ipv6_slaac"),
        ("dhcpv6-stateless", "ipv6_dhcpv6-stateless"),
        ("dhcpv6-stateful", "ipv6_dhcpv6-stateful"),
    ],
)
def test_network_data_of_ipv6_says_the_mode_and_the_address(mode: str | None, kind: str) -> None:
    subnet = msgspec.structs.replace(
        SUBNET,
        cidr="2001:db8::/64",
        ip_version=6,
        gateway_ip="2001:db8::1",
        dns_nameservers=["2001:db8::53"],
        ipv6_ra_mode=mode,
        ipv6_address_mode=mode,
    )
    vif = msgspec.structs.replace(VIF, addresses=[VifAddress(ip="2001:db8::5", subnet=subnet)])
    (told,) = network_data([vif], "bridge")["networks"]
    assert told == {
        "id": "network0",
        "link": "tap0f1e2d3c-4b",
        "network_id": "net",
        "type": kind,
        "ip_address": "2001:db8::5",
        "netmask": "ffff:ffff:ffff:ffff::",
        "routes": [{"network": "::", "netmask": "::", "gateway": "2001:db8::1"}],
        "services": [{"type": "dns", "address": "2001:db8::53"}],
    }
