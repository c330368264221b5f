"""What a guest may read about itself: the metadata service's tree and the config drive's files.

Pure data out of a GuestMetadata. The layout and the fields are Nova's:
https://docs.openstack.org/nova/latest/user/metadata.html, and Amazon's EC2 tree beside it.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from ipaddress import ip_network
from typing import Any

import msgspec

from kilonova.domain.network import PlugKind, Vif, VifAddress, binding_of
from kilonova.domain.servers import DevicePlace, GuestMetadata, TaggedDisk

FOLSOM, GRIZZLY, HAVANA, LIBERTY = "2012-08-10", "2013-04-04", "2013-10-17", "2015-10-15"
NEWTON_ONE, NEWTON_TWO, OCATA = "2016-06-30", "2016-10-06", "2017-02-22"
ROCKY, VICTORIA, EPOXY = "2018-08-27", "2020-10-14", "2025-04-04"
OPENSTACK_VERSIONS = (
    FOLSOM,
    GRIZZLY,
    HAVANA,
    LIBERTY,
    NEWTON_ONE,
    NEWTON_TWO,
    OCATA,
    ROCKY,
    VICTORIA,
    EPOXY,
)
EC2_VERSIONS = (
    "1.0",
    "2007-01-19",
    "2007-03-01",
    "2007-08-29",
    "2007-10-10",
    "2007-12-15",
    "2008-02-01",
    "2008-09-01",
    "2009-04-04",
)
LATEST = "latest"
PASSWORD = "password"  # noqa: S105 - the name of a file

_CONFIG_DRIVE_EC2_VERSIONS = ("2009-04-04", LATEST)
_RANDOM_SEED_BYTES = 512

Tree = dict[str, Any]
"""Name → content (bytes, text, a number) or a further Tree."""


def lookup(metadata: GuestMetadata, path: str, dhcp_domain: str = "novalocal") -> bytes | None:
    """What ``GET path`` answers this guest: a file's content or a folder's listing; None is a 404."""
    parts = [part for part in path.split("/") if part]
    if parts[:1] == ["ec2"]:  # the name of the tree whose root is the root
        parts = parts[1:]
    if not parts:
        return _lines([*EC2_VERSIONS, LATEST])
    if parts[0] == "openstack":
        return _lookup_openstack(metadata, parts[1:], dhcp_domain)
    if parts[0] in (*EC2_VERSIONS, LATEST):
        return _walk(ec2_tree(metadata, parts[0], dhcp_domain), parts[1:], metadata.key_name)
    return None


def openstack_files(
    metadata: GuestMetadata, version: str, dhcp_domain: str = "novalocal", *, with_password: bool = False
) -> dict[str, bytes]:
    """File name → content of one OpenStack version, or of ``latest``; KeyError if there is no such version.

    ``with_password`` puts admin_pass in meta_data.json: on the config drive only, as Nova does.
    """
    at = _openstack_version(version)
    files = {"meta_data.json": _json(_meta_data(metadata, at, dhcp_domain, with_password))}
    if metadata.user_data is not None:
        files["user_data"] = metadata.user_data
    if at >= HAVANA:
        files["vendor_data.json"] = _json(metadata.vendor_data)
    if at >= LIBERTY:
        files["network_data.json"] = _json(network_data(metadata.vifs, metadata.plug))
    if at >= NEWTON_TWO:
        files["vendor_data2.json"] = _json(metadata.vendor_data_dynamic | {"static": metadata.vendor_data})
    return files


def config_drive_files(metadata: GuestMetadata, dhcp_domain: str = "novalocal") -> dict[str, bytes]:
    """Path on the config drive → content."""
    files = {}
    for version in (*OPENSTACK_VERSIONS, LATEST):
        for name, content in openstack_files(metadata, version, dhcp_domain, with_password=True).items():
            files[f"openstack/{version}/{name}"] = content
    for version in _CONFIG_DRIVE_EC2_VERSIONS:
        tree = ec2_tree(metadata, version, dhcp_domain)
        files[f"ec2/{version}/meta-data.json"] = _json(tree["meta-data"])
        if metadata.user_data is not None:
            files[f"ec2/{version}/user-data"] = metadata.user_data
    return files


# The OpenStack tree
def _lookup_openstack(metadata: GuestMetadata, parts: list[str], dhcp_domain: str) -> bytes | None:
    if not parts:
        return _lines([*OPENSTACK_VERSIONS, LATEST])
    if parts[0] not in (*OPENSTACK_VERSIONS, LATEST) or len(parts) > 2:
        return None
    files = openstack_files(metadata, parts[0], dhcp_domain)
    if _openstack_version(parts[0]) >= GRIZZLY:
        files[PASSWORD] = metadata.password.encode()
    return files.get(parts[1]) if len(parts) == 2 else _lines(sorted(files))


def _openstack_version(version: str) -> str:
    if version == LATEST:
        return OPENSTACK_VERSIONS[-1]
    if version not in OPENSTACK_VERSIONS:
        raise KeyError(version)
    return version


def _meta_data(metadata: GuestMetadata, version: str, dhcp_domain: str, with_password: bool) -> Tree:
    data: Tree = {"uuid": metadata.server_id}
    if metadata.metadata:
        data["meta"] = metadata.metadata
    if with_password and metadata.admin_password:
        data["admin_pass"] = metadata.admin_password
    if metadata.key_name and metadata.public_key:
        data["public_keys"] = {metadata.key_name: metadata.public_key}
        data["keys"] = [{"name": metadata.key_name, "type": "ssh", "data": metadata.public_key}]
    data["hostname"] = _hostname(metadata, dhcp_domain)
    data["name"] = metadata.name
    data["launch_index"] = metadata.launch_index
    data["availability_zone"] = metadata.availability_zone
    if version >= GRIZZLY:
        data["random_seed"] = base64.b64encode(os.urandom(_RANDOM_SEED_BYTES)).decode()
    if version >= LIBERTY:
        data["project_id"] = metadata.project_id
    if version >= NEWTON_ONE:
        places = metadata.places
        nics = [_tagged_nic(vif, version, places) for vif in metadata.vifs if vif.tag]
        data["devices"] = nics + [_tagged_disk(disk, places) for disk in metadata.tagged_disks]
    if version >= VICTORIA:
        data["dedicated_cpus"] = []
    return data


def _tagged_nic(vif: Vif, version: str, places: Mapping[str, DevicePlace]) -> Tree:
    nic: Tree = {"type": "nic", **_place(places.get(vif.mac)), "mac": vif.mac, "tags": [vif.tag]}
    return nic | {"vf_trusted": False} if version >= ROCKY else nic


def _tagged_disk(disk: TaggedDisk, places: Mapping[str, DevicePlace]) -> Tree:
    place = _place(places.get(disk.serial or disk.path))
    found: Tree = {"type": "disk", **place, "path": disk.path, "tags": [disk.tag]}
    return found | {"serial": disk.serial} if disk.serial else found


def _place(place: DevicePlace | None) -> Tree:
    """Nova's words for what nobody knows: a config drive is written before the machine is there."""
    return {"bus": "none", "address": "none"} if place is None else msgspec.structs.asdict(place)


def sets_password(path: str) -> bool:
    """Whether that is where a guest may tell its password (by POST)."""
    parts = [part for part in path.split("/") if part]
    if len(parts) != 3 or parts[0] != "openstack" or parts[2] != PASSWORD:
        return False
    return parts[1] == LATEST or (parts[1] in OPENSTACK_VERSIONS and parts[1] >= GRIZZLY)


def asks_services(path: str) -> bool:
    """Whether the answer has what the operator's services say of the guest."""
    return path.rstrip("/").endswith("/vendor_data2.json")


def tells_places(metadata: GuestMetadata, path: str) -> bool:
    """Whether the answer says where the guest's devices are."""
    tagged = metadata.tagged_disks or any(vif.tag for vif in metadata.vifs)
    return bool(tagged) and path.rstrip("/").endswith("/meta_data.json")


def _hostname(metadata: GuestMetadata, dhcp_domain: str) -> str:
    """With the domain, unless the user gave a name that has one (microversion 2.94)."""
    if "." in metadata.hostname or not dhcp_domain:
        return metadata.hostname
    return f"{metadata.hostname}.{dhcp_domain}"


def network_data(vifs: list[Vif], plug: PlugKind) -> Tree:
    """network_data.json: links, the networks on them, and services that hold for all of them.

    A link's type is what Neutron calls the plug: ``bridge``, or ``ovs``, with a bridge before the switch too.
    """
    kind = binding_of(plug, "")[0]
    networks: list[Tree] = []
    servers: list[str] = []
    for vif in vifs:
        for address in _first_of_each_subnet(vif):
            networks.append(_network(vif, address, f"network{len(networks)}"))
            servers += [s for s in address.subnet.dns_nameservers if s not in servers]
    return {
        "links": [
            {
                "id": vif.tap,
                "vif_id": vif.port_id,
                "type": kind,
                "mtu": vif.mtu,
                "ethernet_mac_address": vif.mac,
            }
            for vif in vifs
        ],
        "networks": networks,
        "services": [{"type": "dns", "address": server} for server in servers],
    }


def _first_of_each_subnet(vif: Vif) -> list[VifAddress]:
    return list({address.subnet.id: address for address in reversed(vif.addresses)}.values())[::-1]


def _network(vif: Vif, address: VifAddress, name: str) -> Tree:
    subnet = address.subnet
    kind = f"ipv{subnet.ip_version}"
    common = {"id": name, "link": vif.tap, "network_id": vif.network_id}
    if subnet.ipv6_address_mode is not None:  # all else, too: who reads this may know nothing of the mode
        kind += f"_{subnet.ipv6_address_mode}"
    elif subnet.enable_dhcp and subnet.ip_version == 4:
        return common | {"type": f"{kind}_dhcp"}
    return common | {
        "type": kind,
        "ip_address": address.ip,
        "netmask": str(ip_network(subnet.cidr).netmask),
        "routes": _routes(address),
        "services": [{"type": "dns", "address": server} for server in subnet.dns_nameservers],
    }


def _routes(address: VifAddress) -> list[Tree]:
    subnet = address.subnet
    everywhere = "0.0.0.0/0" if subnet.ip_version == 4 else "::/0"
    routes = [(everywhere, subnet.gateway_ip)] if subnet.gateway_ip else []
    routes += [(route.destination, route.nexthop) for route in subnet.host_routes]
    return [
        {"network": str(net.network_address), "netmask": str(net.netmask), "gateway": gateway}
        for destination, gateway in routes
        for net in [ip_network(destination)]
    ]


# The EC2 tree
def ec2_tree(metadata: GuestMetadata, version: str, dhcp_domain: str = "novalocal") -> Tree:
    """``meta-data`` and, if there is one, ``user-data`` of an EC2 version that exists (or ``latest``)."""
    at = EC2_VERSIONS[-1] if version == LATEST else version
    hostname = _hostname(metadata, dhcp_domain)
    data: Tree = {
        "ami-launch-index": metadata.launch_index,
        # What Amazon says of an image that has none; Nova says FIXME.
        "ami-manifest-path": "(unknown)",
        "hostname": hostname,
        # Amazon's form: i- and 17 hexadecimal digits.
        "instance-id": f"i-{metadata.server_id.replace('-', '')[:17]}",
        "local-ipv4": _first_ipv4(metadata),
        "reservation-id": metadata.reservation_id,
    }
    if metadata.security_groups is not None:
        data["security-groups"] = metadata.security_groups
    if metadata.image_id is not None:
        data["ami-id"] = f"ami-{metadata.image_id.replace('-', '')[:17]}"
    if metadata.key_name and metadata.public_key:
        data["public-keys"] = {"0": {"openssh-key": metadata.public_key}}
    if at >= "2007-01-19":
        data |= {"local-hostname": hostname, "public-hostname": hostname}
        data["public-ipv4"] = _first_floating_ip(metadata)
    if at >= "2007-08-29":
        data["instance-type"] = metadata.instance_type
    if at >= "2007-12-15":
        data["block-device-mapping"] = dict(metadata.block_devices)
    if at >= "2008-02-01":
        data["placement"] = {"availability-zone": metadata.availability_zone or ""}
    if at >= "2008-09-01":
        data["instance-action"] = "none"
    tree: Tree = {"meta-data": data}
    if metadata.user_data is not None:
        tree["user-data"] = metadata.user_data
    return tree


def _first_ipv4(metadata: GuestMetadata) -> str:
    addresses = (address for vif in metadata.vifs for address in vif.addresses)
    return next((a.ip for a in addresses if a.subnet.ip_version == 4), "")


def _first_floating_ip(metadata: GuestMetadata) -> str:
    leading = (vif.floating_ips.get(address.ip, []) for vif in metadata.vifs for address in vif.addresses)
    return next((ip for several in leading for ip in several), "")


def _walk(tree: Tree, parts: list[str], key_name: str | None) -> bytes | None:
    node: Any = tree
    for part in parts:
        if not isinstance(node, dict) or part not in node:
            return None
        node = node[part]
    if isinstance(node, bytes):
        return node
    if isinstance(node, list):
        return _lines(node)
    if not isinstance(node, dict):
        return str(node).encode()
    if parts[-1:] == ["public-keys"]:
        # EC2's one exception: the index and the key's name, without a slash.
        return _lines([f"0={key_name}"])
    return _lines([f"{name}/" if isinstance(node[name], dict) else name for name in sorted(node)])


def _lines(names: list[str]) -> bytes:
    return "\n".join(names).encode()


def _json(value: Any) -> bytes:
    return msgspec.json.encode(value)
