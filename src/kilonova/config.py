"""The configuration: one frozen struct, read once from TOML, passed and never global.

Sections and options have Nova's names where the meaning is Nova's
(https://docs.openstack.org/nova/latest/configuration/config.html). Times are seconds, memory MiB, disk GiB.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

import msgspec

from kilonova.domain import codec
from kilonova.domain.errors import BadRequest


class Database(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    connection: str = ""
    """SQLAlchemy URL; empty: SQLite in the state folder."""


class Bus(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The message broker between processes (RabbitMQ); ``kilonova up`` needs none."""

    url: str = ""
    """``amqp://user:password@host:5672/vhost``, ``amqps://`` for TLS; a cluster's with commas between."""
    exchange: str = "kilonova"
    """All queues' names begin with it."""
    heartbeat: float = 15.0
    """A broker that is silent for twice as long is taken for dead; 0: none."""
    ssl_ca_file: str = ""
    """Who must have signed the broker's certificate; empty: whom the system trusts."""
    ssl_cert_file: str = ""
    ssl_key_file: str = ""
    """Our own certificate, for a broker that asks for one."""


class Compute(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    report_interval: float = 10.0
    service_down_time: float = 60.0
    cpu_allocation_ratio: float = 4.0
    ram_allocation_ratio: float = 1.0
    disk_allocation_ratio: float = 1.0
    reserved_host_memory_mb: int = 512
    reserved_host_disk_mb: int = 0
    reserved_host_cpus: int = 0
    build_workers: int = 8
    """Operations that one agent works on at once."""


class Operations(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    lease: float = 30.0
    sweep_interval: float = 5.0
    build_timeout: float = 600.0
    action_timeout: float = 300.0
    max_attempts: int = 3


class Scheduler(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    enabled_filters: list[str] = []
    """Empty: the default list of ``scheduler/filters``."""
    weights: dict[str, float] = {}
    """Weigher name → multiplier, over the defaults."""
    max_alternates: int = 2


class Quota(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Nova's defaults; -1 is unlimited."""

    instances: int = 10
    cores: int = 20
    ram: int = 51200
    metadata_items: int = 128
    key_pairs: int = 100
    server_groups: int = 10
    server_group_members: int = 10


class Network(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    mtu: int = 1500
    dns_servers: list[str] = []
    dhcp_lease_time: int = 86400
    dhcp_domain: str = "novalocal"
    transit_cidr: str = "100.127.0.0/16"
    """Link addresses between each network's namespace and the host (a slice of 100.64.0.0/10, RFC 6598)."""
    nat: bool = True
    """Guests reach the outside through the host's address."""
    quota_network: int = 100
    quota_subnet: int = 100
    quota_port: int = 500
    """Of one project; -1 is unlimited (Neutron's section ``quotas`` and its defaults)."""


class Libvirt(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    uri: str = ""
    """Empty: ``qemu:///embed`` with its root in the state folder."""
    virt_type: str = "auto"
    """``auto`` probes KVM with a real guest; ``kvm`` or ``qemu`` decide."""
    disk_cachemode: str = "none"


class Fake(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Knobs of the fake driver: seconds a step takes, and how often (0..1) it fails."""

    step_seconds: dict[str, float] = {}
    step_failures: dict[str, float] = {}
    vcpus: int = 64
    memory_mb: int = 262144
    disk_gb: int = 8192


class Image(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    max_size: int = 1 << 40
    """Bytes of one image."""


class Token(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    expiration: int = 3600


class Faults(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """For tests: the fault point at which the process kills itself, and at which visit of it."""

    kill_at: str = ""
    kill_at_visit: int = 1


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    state: str = "state"
    host: str = ""
    """Name of this host; empty: the machine's host name."""
    region: str = "RegionOne"
    default_availability_zone: str = "nova"
    database: Database = Database()
    bus: Bus = Bus()
    compute: Compute = Compute()
    operations: Operations = Operations()
    scheduler: Scheduler = Scheduler()
    quota: Quota = Quota()
    network: Network = Network()
    libvirt: Libvirt = Libvirt()
    fake: Fake = Fake()
    image: Image = Image()
    token: Token = Token()
    faults: Faults = Faults()


def load(path: Path | None) -> Config:
    """The configuration of that file, or the defaults. BadRequest names the option that is wrong."""
    if path is None:
        return Config()
    try:
        return codec.convert(tomllib.loads(path.read_text()), Config)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise BadRequest(f"{path}: {error}") from error
