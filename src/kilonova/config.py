"""The configuration: one frozen struct, read once from TOML, passed and never global.

Sections and options have Nova's names where the meaning is Nova's
(https://docs.openstack.org/nova/latest/configuration/config.html). Times are seconds, memory MiB, disk GiB.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network, ip_address
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit
from uuid import UUID

import msgspec
from msgspec import Meta

from kilonova.domain import codec
from kilonova.domain.errors import BadRequest
from kilonova.domain.network import MAX_VNI, PlugKind

Positive = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=0)]
AtLeastOne = Annotated[int, Meta(ge=1)]
Limit = Annotated[int, Meta(ge=-1)]
"""Of a quota: -1 is unlimited."""


def _check(option: str, parse: Callable[[str], object], value: str) -> None:
    try:
        parse(value)
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from error


class Database(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All but the first two is for PostgreSQL."""

    connection: str = ""
    """SQLAlchemy URL; empty: SQLite in the state folder."""
    keep_deleted_days: Count = 30
    """How long the records of deleted servers and images are kept; 0: for ever."""
    max_pool_size: Annotated[int, Meta(ge=1)] = 20
    """Connections that a process opens at most."""
    pool_timeout: Annotated[float, Meta(ge=0)] = 10.0
    """How long to wait for one of them to be free."""
    statement_timeout: Annotated[float, Meta(gt=0)] = 30.0
    """How long one statement may take, waits for locks included, and a transaction pause between two."""
    reconnect_timeout: Annotated[float, Meta(ge=0)] = 5.0
    """How long to wait for a database that is away (a restart takes a second) before the caller gets 503."""


class Bus(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The message broker between processes (RabbitMQ); ``kilonova up`` needs none."""

    url: str = ""
    """``amqp://user:password@host:5672/vhost``, ``amqps://`` for TLS; a cluster's with commas between."""
    exchange: str = "kilonova"
    """All queues' names begin with it."""
    heartbeat: Annotated[float, Meta(ge=0)] = 15.0
    """A broker that is silent for twice as long is taken for dead; 0: none."""
    ssl_ca_file: str = ""
    """Who must have signed the broker's certificate; empty: whom the system trusts."""
    ssl_cert_file: str = ""
    ssl_key_file: str = ""
    """Our own certificate, for a broker that asks for one."""


class Api(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    public_endpoint: str = ""
    """The root that clients reach all services under, ``https://cloud.example.org/openstack``, if a proxy
    stands before the API; empty: the address that each request was sent to."""
    idempotency_key_lifetime: Positive = 86400.0
    """How long an ``Idempotency-Key`` stands for the request that it came with first."""

    vendordata_jsonfile_path: str = ""
    """A JSON object that hosts tell all guests (vendor_data.json, and ``static`` in vendor_data2.json)."""
    vendordata_dynamic_targets: list[str] = []
    """``name@url``: asked by POST about a guest that reads its vendor_data2.json, where the answers are."""
    vendordata_dynamic_connect_timeout: Positive = 5.0
    vendordata_dynamic_read_timeout: Positive = 5.0
    vendordata_dynamic_ssl_certfile: str = ""
    """Who must have signed the certificates of these; empty: whom the system trusts."""

    def __post_init__(self) -> None:
        """ValueError names the option that is no URL, or has none."""
        if self.public_endpoint:
            _check("public_endpoint", root_url, self.public_endpoint)
        for target in self.vendordata_dynamic_targets:
            _check("vendordata_dynamic_targets", named_url, target)


def named_url(text: str) -> None:
    """``name@https://host/path``. ValueError: it is not that."""
    name, _, url = text.partition("@")
    parts = urlsplit(url)
    if not name or name == "static" or parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{text!r} is not name@http://… or name@https://…")
    _ = parts.port  # ValueError


def root_url(text: str) -> None:
    """``https://host:port/path``. ValueError: it is not that."""
    parts = urlsplit(text)
    printable = all(33 <= ord(letter) < 127 for letter in text)
    if parts.scheme not in ("http", "https") or not parts.hostname or not printable:
        raise ValueError(f"{text!r} is no http:// or https:// URL")
    if parts.query or parts.fragment or parts.username is not None or "?" in text or "#" in text:
        raise ValueError(f"{text!r} has more than a scheme, a host, a port and a path")
    _ = parts.port  # ValueError


class Compute(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    report_interval: Positive = 10.0
    service_down_time: Positive = 60.0
    cpu_allocation_ratio: Positive = 4.0
    ram_allocation_ratio: Positive = 1.0
    disk_allocation_ratio: Positive = 1.0
    reserved_host_memory_mb: Count = 512
    reserved_host_disk_mb: Count = 0
    reserved_host_cpus: Count = 0
    max_concurrent_builds: AtLeastOne = 10
    """Builds that one agent works on at once; others wait, and hold up nothing else."""
    shelved_offload_time: Annotated[int, Meta(ge=-1)] = 0
    """Seconds until a server that was shelved leaves its host; 0: at once, -1: when an admin says so."""
    max_concurrent_actions: AtLeastOne = 8
    """All else that one agent works on at once: deletes, stops, reboots."""

    def __post_init__(self) -> None:
        """ValueError if every host would look down between two of its reports."""
        if self.service_down_time <= self.report_interval:
            raise ValueError("service_down_time must be longer than report_interval")


class Operations(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    lease: Positive = 30.0
    sweep_interval: Positive = 5.0
    build_timeout: Positive = 600.0
    action_timeout: Positive = 300.0
    copy_timeout: Positive = 3600.0
    """Of what carries a whole disk about: snapshots, backups, shelving."""
    max_attempts: AtLeastOne = 3


class Scheduler(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    enabled_filters: list[str] = []
    """Empty: all built-in ones, in the order of ``scheduler/filters``. A list is all that there is."""
    extra_filters: list[str] = []
    """After those: what other packages bring."""
    weights: dict[str, float] = {}
    """Weigher name → multiplier, over the defaults."""
    max_alternates: Count = 2


class Quota(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Nova's defaults; -1 is unlimited."""

    instances: Limit = 10
    cores: Limit = 20
    ram: Limit = 51200
    metadata_items: Limit = 128
    key_pairs: Limit = 100
    server_groups: Limit = 10
    server_group_members: Limit = 10


def interface_name(text: str) -> None:
    """ValueError: Linux has no network interface of that name."""
    if len(text) > 15 or any(letter.isspace() or letter == "/" for letter in text) or text in (".", ".."):
        raise ValueError(f"{text!r} is no name of a network interface")


class Network(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    mtu: Annotated[int, Meta(ge=68, le=65535)] = 1500
    """What the links between hosts carry, as Neutron's global_physnet_mtu. Networks carry as much, or less
    what their tunnels take."""
    tunnels: bool = True
    """Where services run apart, a network is on all hosts: VXLAN joins its parts."""
    tunnel_address: str = ""
    """Of this host, where it takes tunnels (IPv4); empty: where it reaches the broker from."""
    tunnel_port: Annotated[int, Meta(ge=1, le=65535)] = 4789
    """UDP, the same for all hosts."""
    vni_range: str = "1:16777215"
    """``first:last`` of the VXLAN identifiers that new networks get, where others use some of them too."""
    dns_servers: list[str] = []
    dhcp_lease_time: Annotated[int, Meta(ge=120)] = 86400
    dhcp_domain: str = "novalocal"
    transit_cidr: str = "100.127.0.0/16"
    """Link addresses between each network's namespace and the host (a slice of 100.64.0.0/10, RFC 6598)."""
    nat: bool = True
    """Guests reach the outside through the host's address."""
    implicit_gateway: bool = True
    """A subnet that no router serves has its gateway on each host, which leads outside; false: as in Neutron,
    nobody has the gateway's address but a router."""
    external_interface: str = ""
    """The network interface, without addresses, that the external networks are on; empty: the host itself is
    their gateway."""
    plug: PlugKind = "bridge"
    """How a host joins guests to their networks: by a Linux bridge a network, or by Open vSwitch's br-int,
    with a Linux bridge before it for each port (``ovs-hybrid``) or without."""
    ovsdb_connection: str = "unix:/run/openvswitch/db.sock"
    """Where Open vSwitch's database listens, for the two plugs that need it."""
    quota_network: Limit = 100
    quota_subnet: Limit = 100
    quota_port: Limit = 500
    quota_router: Limit = 10
    quota_floatingip: Limit = 50
    quota_security_group: Limit = 10
    quota_security_group_rule: Limit = 100
    quota_rbac_policy: Limit = 10
    quota_subnetpool: Limit = -1
    """Of one project; -1 is unlimited (Neutron's section ``quotas`` and its defaults)."""

    def __post_init__(self) -> None:
        """ValueError names the option whose value is not of its kind, or does not go with another's."""
        if self.tunnel_address:
            _check("tunnel_address", IPv4Address, self.tunnel_address)
        _check("vni_range", vni_range, self.vni_range)
        _check("transit_cidr", IPv4Network, self.transit_cidr)
        _check("external_interface", interface_name, self.external_interface)
        for server in self.dns_servers:
            _check("dns_servers", IPv4Address, server)
        _check("ovsdb_connection", unix_socket, self.ovsdb_connection)


def vni_range(text: str) -> tuple[int, int]:
    """``1:4000``, both included. ValueError: it is not that."""
    first, _, last = text.partition(":")
    numbers = all(word.isascii() and word.isdigit() and len(word) <= 8 for word in (first, last))
    if numbers and 1 <= int(first) <= int(last) <= MAX_VNI:
        return int(first), int(last)
    raise ValueError(f"{text!r} is not first:last, within 1:{MAX_VNI}")


def unix_socket(text: str) -> Path:
    """``unix:/path``. ValueError: it is not that."""
    kind, _, path = text.partition(":")
    if kind != "unix" or not path.startswith("/"):
        raise ValueError(f"{text!r} is not unix: and an absolute path")
    return Path(path)


class Libvirt(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    uri: str = ""
    """Empty: ``qemu:///embed`` with its root in the state folder."""
    virt_type: str = "auto"
    """``auto`` probes KVM with a real guest; ``kvm`` or ``qemu`` decide."""
    disk_cachemode: str = "none"
    images_type: Literal["qcow2", "raw", "rbd"] = "qcow2"
    """What a server's disk is: an overlay on the host's cached image, a copy of it, or a clone in Ceph."""
    images_rbd_pool: str = "vms"
    """Where those are."""
    images_rbd_ceph_conf: str = "/etc/ceph/ceph.conf"
    """Names the monitors, and the keyring of whom this host's guests reach Ceph as."""
    rbd_user: str = ""
    """Who that is; empty: who keeps the volume says it."""
    rbd_secret_uuid: str = ""
    """The secret that libvirt has of that user's key. Empty: it is told the key when a guest needs it."""
    num_pcie_ports: Annotated[int, Meta(ge=0, le=28)] = 16
    """PCIe root ports of a q35 machine, one a device, those that are attached while it runs included; 0: as
    many as libvirt thinks right, which leaves room for one."""
    device_detach_attempts: AtLeastOne = 8
    """How often a guest is asked to let go of a device."""
    device_detach_timeout: AtLeastOne = 20
    """How long it has each time."""

    def __post_init__(self) -> None:
        """ValueError: libvirt would not take it, or nobody is said to reach the pool."""
        if self.rbd_secret_uuid:
            _check("rbd_secret_uuid", UUID, self.rbd_secret_uuid)
        if self.images_type == "rbd" and not self.rbd_user:
            raise ValueError("images_type = 'rbd' needs rbd_user, a user of Ceph's")


class Fake(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Knobs of the fake driver: seconds a step takes, and how often (0..1) it fails."""

    step_seconds: dict[str, float] = {}
    step_failures: dict[str, float] = {}
    vcpus: int = 64
    memory_mb: int = 262144
    disk_gb: int = 8192


class Image(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    max_size: AtLeastOne = 1 << 40
    """Bytes of one image."""
    filesystem_store_datadir: str = ""
    """Where the image service keeps them; empty: ``images`` in the state folder. What must be converted on
    its way into Ceph is staged there."""
    backend: Literal["file", "rbd"] = "file"
    """Where new images go; those that are in files are found there as before."""
    rbd_store_pool: str = "images"
    rbd_store_user: str = "glance"
    rbd_store_ceph_conf: str = "/etc/ceph/ceph.conf"
    """Glance's names; the file names the user's keyring."""
    reserved_disk_mb: Count = 512
    """MiB that uploads leave free where they are kept or staged: the database may be beside them."""
    max_converted_size: AtLeastOne = 1 << 37
    """Bytes of the disk in an image that is made raw: however small the image is, its whole disk is read."""
    show_image_direct_url: bool = False
    """Say where in the store an image is (Ceph's names), to who may see it."""


class ImageCache(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a host keeps of the images that its servers were made of."""

    manager_interval: Annotated[float, Meta(ge=-1)] = 2400.0
    """Seconds between two looks for images that nobody uses; -1: none, 0: every minute."""
    remove_unused_base_images: bool = True
    remove_unused_original_minimum_age_seconds: Count = 86400
    """How long an image that no disk is based on is kept, where there is space for it."""


class VolumeBackend(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[volume.backends.NAME]``: a place where a volume manager keeps volumes (Cinder's names)."""

    driver: Literal["file", "rbd", "iscsi"]
    volume_backend_name: str = ""
    """What volume types choose by; empty: NAME."""
    path: str = ""
    """Of ``file`` and ``iscsi``: the folder; empty: ``volumes`` in the state folder."""
    shared: bool = False
    """Of ``file``: the folder is the same one, under the same path, on every host and for every manager of
    that name. Else the volumes are for servers of the manager's own machine."""
    rbd_pool: str = "volumes"
    rbd_user: str = "cinder"
    rbd_ceph_conf: str = "/etc/ceph/ceph.conf"
    target_ip_address: str = ""
    """Of ``iscsi``: where hosts reach this machine's tgtd."""
    target_port: Annotated[int, Meta(ge=1, le=65535)] = 3260
    target_prefix: str = "iqn.2010-10.org.openstack:"
    tgt_socket: str = "/run/tgtd/socket.0"
    """Of ``iscsi``: where tgtd is told what to serve."""

    def __post_init__(self) -> None:
        """ValueError: an ``iscsi`` that no host could reach."""
        if self.driver == "iscsi":
            _check("target_ip_address", ip_address, self.target_ip_address)


class Volume(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str = ""
    """Of the managers that stand in for each other, as where a backend is shared; empty: the host's name."""
    enabled_backends: list[str] = []
    """Which of ``backends`` this manager works with; empty: all of them."""
    backends: dict[str, VolumeBackend] = {}
    """``kilonova up`` has one of files in the state folder if there is none."""
    default_volume_type: Annotated[str, Meta(min_length=1, max_length=255)] = "__DEFAULT__"
    max_over_subscription_ratio: Annotated[float, Meta(ge=1)] = 20.0
    """How much more than a backend's size its volumes may promise."""
    operation_timeout: Positive = 3600.0
    """How long a volume may take to be made, extended, copied or deleted."""
    max_concurrent_operations: AtLeastOne = 8
    """What one manager works on at once."""
    quota_volumes: Limit = 10
    quota_gigabytes: Limit = 1000
    quota_snapshots: Limit = 10
    per_volume_size_limit: Limit = -1
    """Of one project, and of one volume (GiB); -1 is unlimited (Cinder's names and defaults)."""

    def __post_init__(self) -> None:
        """ValueError: an enabled backend is not described, or its name cannot be part of a host's."""
        if unknown := [name for name in self.enabled_backends if name not in self.backends]:
            raise ValueError(f"enabled_backends: there is no [volume.backends.{unknown[0]}]")
        for name in self.backends:
            _check("backends", backend_name, name)


def backend_name(text: str) -> None:
    """ValueError: it is no name of a backend."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", text):
        raise ValueError(f"{text!r} is no name of a backend: letters, digits, . _ -")


class Token(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    expiration: AtLeastOne = 3600
    key_repository: str = ""
    """Folder of the keys that seal tokens, the same for every API; empty: ``keys`` in the state folder."""


class ServiceUser(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """As whom a compute that runs apart asks the image service; it needs the role service in its project."""

    auth_url: str = ""
    username: str = "nova"
    password: str = ""
    project_name: str = "service"
    user_domain_name: str = "Default"
    project_domain_name: str = "Default"


class Monitoring(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """For load balancers and Prometheus: /healthz, /readyz and /metrics of this process."""

    listen: str = ""
    """``address:port``, port 0 takes a free one; empty: nothing listens. Whoever reaches it may read it."""
    metrics_on_api: bool = False
    """/metrics on the API's own address too, for everybody who reaches that."""

    def __post_init__(self) -> None:
        """ValueError if it is no address with a port."""
        if self.listen:
            _check("listen", address_and_port, self.listen)


def address_and_port(text: str) -> tuple[str, int]:
    """``127.0.0.1:9464``, ``[::1]:9464``. ValueError: it is not that."""
    address, colon, port = text.rpartition(":")
    address = address.removeprefix("[").removesuffix("]")
    if not colon or not address or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{text!r} is no address:port")
    return str(ip_address(address)), int(port)


class Faults(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """For tests: the fault point at which the process kills itself, and at which visit of it."""

    kill_at: str = ""
    kill_at_visit: AtLeastOne = 1
    record: str = ""
    """A file that gets a line for every fault point that the process reaches."""


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    state: str = "state"
    host: str = ""
    """Name of this host; empty: the machine's host name."""
    region: Annotated[str, Meta(min_length=1, max_length=255)] = "RegionOne"
    default_availability_zone: str = "nova"
    database: Database = Database()
    bus: Bus = Bus()
    api: Api = Api()
    compute: Compute = Compute()
    operations: Operations = Operations()
    scheduler: Scheduler = Scheduler()
    quota: Quota = Quota()
    network: Network = Network()
    libvirt: Libvirt = Libvirt()
    fake: Fake = Fake()
    image: Image = Image()
    image_cache: ImageCache = ImageCache()
    volume: Volume = Volume()
    token: Token = Token()
    service_user: ServiceUser = ServiceUser()
    monitoring: Monitoring = Monitoring()
    faults: Faults = Faults()

    @property
    def has_tunnels(self) -> bool:
        """Whether networks may be on several hosts: those that a broker joins."""
        return self.network.tunnels and bool(self.bus.url)


def load(path: Path | None) -> Config:
    """The configuration of that file, or the defaults. BadRequest names the option that is wrong."""
    if path is None:
        return Config()
    try:
        return codec.convert(tomllib.loads(path.read_text(encoding="utf-8")), Config)
    except UnicodeDecodeError as error:
        raise BadRequest(f"{path} is not text in UTF-8") from error
    except (OSError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise BadRequest(f"{path}: {error}") from error
