"""Networks, subnets, ports, their addresses, tags and quotas (Neutron's resources).

Two constraints hold what no code may break: a subnet gives an address once, a network has a MAC once.
"""

from __future__ import annotations

import sqlalchemy as sa

from kilonova.domain.dhcp_options import DhcpOption
from kilonova.domain.network import AddressPair, HostRoute, Pool
from kilonova.store.schema.base import Json, metadata, text, uuid_column


def _standard() -> list[sa.Column[object]]:
    """What Neutron's resources have in common."""
    return [
        sa.Column("project_id", text(64), nullable=False),
        sa.Column("name", text(255), nullable=False),
        sa.Column("description", text(255), nullable=False),
        sa.Column("revision_number", sa.Integer, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("updated_at", sa.Float, nullable=False),
    ]


networks = sa.Table(
    "networks",
    metadata,
    uuid_column("id", primary_key=True),
    *_standard(),
    sa.Column("admin_state_up", sa.Boolean, nullable=False),
    sa.Column("shared", sa.Boolean, nullable=False),
    sa.Column("mtu", sa.Integer, nullable=False),
    sa.Column("port_security_enabled", sa.Boolean, nullable=False),
    # NULL is what a release that knew no external networks goes on to write: it is none.
    sa.Column("external", sa.Boolean),
    # True: not for everybody, only for whom network_rbac names.
    sa.Column("external_restricted", sa.Boolean),
    # Of the external networks, the one that auto-allocated topologies lead to; NULL: it is not.
    sa.Column("is_default", sa.Boolean),
    # Its VXLAN identifier. NULL is what a release without tunnels goes on to write: it gets one when a host
    # asks for it.
    sa.Column("segmentation_id", sa.Integer),
    sa.Index(None, "project_id"),
    sa.Index(None, "segmentation_id", unique=True),
)

subnets = sa.Table(
    "subnets",
    metadata,
    uuid_column("id", primary_key=True),
    uuid_column("network_id", sa.ForeignKey("networks.id"), nullable=False, index=True),
    *_standard(),
    sa.Column("cidr", text(64), nullable=False),
    sa.Column("ip_version", sa.Integer, nullable=False),
    sa.Column("gateway_ip", text(64)),
    sa.Column("enable_dhcp", sa.Boolean, nullable=False),
    sa.Column("dns_nameservers", Json(list[str]), nullable=False),
    sa.Column("host_routes", Json(list[HostRoute]), nullable=False),
    sa.Column("allocation_pools", Json(list[Pool]), nullable=False),
    # Where the search for a free address begins: after the one given last.
    sa.Column("next_number", sa.BigInteger, nullable=False),
    sa.Column("ipv6_ra_mode", text(16)),
    sa.Column("ipv6_address_mode", text(16)),
    # The pool that its addresses are of. No foreign key: who makes a subnet of a pool locks the pool.
    uuid_column("subnetpool_id", index=True),
    # NULL: for all ports, as a release that knows no types goes on to write.
    sa.Column("service_types", Json(list[str])),
    sa.Index(None, "project_id"),
)

subnet_pools = sa.Table(
    "subnet_pools",
    metadata,
    uuid_column("id", primary_key=True),
    *_standard(),
    sa.Column("ip_version", sa.Integer, nullable=False),
    sa.Column("prefixes", Json(list[str]), nullable=False),
    sa.Column("min_prefixlen", sa.Integer, nullable=False),
    sa.Column("max_prefixlen", sa.Integer, nullable=False),
    sa.Column("default_prefixlen", sa.Integer, nullable=False),
    # What subnets of one project may take of it: addresses of IPv4, /64s of IPv6. NULL: all.
    sa.Column("default_quota", sa.BigInteger),
    sa.Column("shared", sa.Boolean, nullable=False),
    sa.Column("is_default", sa.Boolean, nullable=False),
    sa.Index(None, "project_id"),
)

auto_allocated_topologies = sa.Table(
    "auto_allocated_topologies",
    metadata,
    sa.Column("project_id", text(64), primary_key=True),
    uuid_column("network_id", sa.ForeignKey("networks.id", ondelete="CASCADE"), nullable=False, unique=True),
    uuid_column("router_id", sa.ForeignKey("routers.id", ondelete="SET NULL"), index=True),
)

ports = sa.Table(
    "ports",
    metadata,
    uuid_column("id", primary_key=True),
    uuid_column("network_id", sa.ForeignKey("networks.id"), nullable=False),
    *_standard(),
    sa.Column("mac_address", text(17), nullable=False),
    sa.Column("admin_state_up", sa.Boolean, nullable=False),
    sa.Column("port_security_enabled", sa.Boolean, nullable=False),
    sa.Column("allowed_address_pairs", Json(list[AddressPair]), nullable=False),
    sa.Column("status", text(16), nullable=False),
    sa.Column("device_id", text(255), nullable=False, index=True),
    sa.Column("device_owner", text(255), nullable=False),
    sa.Column("dns_name", text(255), nullable=False),
    sa.Column("host", text(255), nullable=False),
    sa.Column("vnic_type", text(64), nullable=False),
    sa.Column("profile", Json(), nullable=False),
    # Set while a server holds the port: which NIC of it, from 0. A user may write any device_id on a
    # port; only this says that the port is really a server's.
    sa.Column("nic", sa.Integer),
    sa.Column("nic_tag", text(60)),
    sa.Column("server_hostname", text(255)),
    sa.Column("made_by_build", sa.Boolean, nullable=False),
    # NULL: made by a release that knew no security groups; it gets its project's default one.
    sa.Column("has_groups", sa.Boolean),
    # NULL: none, what a release that knew none goes on to write.
    sa.Column("extra_dhcp_opts", Json(list[DhcpOption])),
    sa.UniqueConstraint("network_id", "mac_address"),
    sa.Index(None, "project_id", "device_owner"),
    sa.Index(None, "network_id", "device_owner"),
    sa.Index(None, "network_id", "status"),
    sa.Index(None, "network_id", "host"),
)

ip_allocations = sa.Table(
    "ip_allocations",
    metadata,
    uuid_column("subnet_id", sa.ForeignKey("subnets.id"), primary_key=True),
    # The address as a number (domain/addresses.py), which is what the search for a free one counts with.
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("ip", text(64), nullable=False),
    uuid_column("port_id", sa.ForeignKey("ports.id", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("position", sa.Integer, nullable=False),
    sa.UniqueConstraint("subnet_id", "ip"),
    sqlite_with_rowid=False,
)

network_tags = sa.Table(
    "network_tags",
    metadata,
    uuid_column("resource_id", primary_key=True),
    sa.Column("tag", text(255), primary_key=True),
)

network_quotas = sa.Table(
    "network_quotas",
    metadata,
    sa.Column("project_id", text(64), primary_key=True),
    sa.Column("resource", text(32), primary_key=True),
    sa.Column("limit", sa.Integer, nullable=False),
)
