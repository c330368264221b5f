"""Services, compute hosts and the claims of servers on them."""

from __future__ import annotations

import sqlalchemy as sa

from kilonova.store.schema.base import Json, metadata, text, uuid_column

services = sa.Table(
    "services",
    metadata,
    uuid_column("id", primary_key=True),
    sa.Column("binary", text(64), nullable=False),
    sa.Column("host", text(255), nullable=False),
    sa.Column("availability_zone", text(255), nullable=False),
    sa.Column("disabled", sa.Boolean, nullable=False, default=False),
    sa.Column("disabled_reason", text(255)),
    sa.Column("forced_down", sa.Boolean, nullable=False, default=False),
    sa.Column("last_seen", sa.Float, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("updated_at", sa.Float, nullable=False),
    sa.UniqueConstraint("binary", "host"),
)

hosts = sa.Table(
    "hosts",
    metadata,
    uuid_column("id", primary_key=True),
    sa.Column("host", text(255), nullable=False, unique=True),
    uuid_column("service_id", sa.ForeignKey("services.id"), nullable=False),
    sa.Column("hypervisor_hostname", text(255), nullable=False),
    sa.Column("hypervisor_type", text(32), nullable=False),
    sa.Column("hypervisor_version", sa.Integer, nullable=False),
    sa.Column("virt_type", text(16), nullable=False),
    sa.Column("architectures", Json(list[str]), nullable=False),
    sa.Column("host_ip", text(64), nullable=False),
    sa.Column("cpu_info", Json(), nullable=False),
    sa.Column("vcpus", sa.BigInteger, nullable=False),
    sa.Column("memory_mb", sa.BigInteger, nullable=False),
    sa.Column("disk_gb", sa.BigInteger, nullable=False),
    # What may be claimed: total times ratio, less what is reserved.
    sa.Column("vcpus_limit", sa.BigInteger, nullable=False),
    sa.Column("memory_mb_limit", sa.BigInteger, nullable=False),
    sa.Column("disk_gb_limit", sa.BigInteger, nullable=False),
    sa.Column("vcpus_used", sa.BigInteger, nullable=False),
    sa.Column("memory_mb_used", sa.BigInteger, nullable=False),
    sa.Column("disk_gb_used", sa.BigInteger, nullable=False),
    sa.Column("disk_available_least", sa.BigInteger),
    # Whether its network wants to be told what changes; NULL: it runs a release that knew nothing of it.
    sa.Column("follows_network", sa.Boolean),
    # Null: a host of the release before said nothing of it, and has bridges.
    sa.Column("plug", text(16)),
    # Where it takes networks' tunnels; NULL: it takes none.
    sa.Column("tunnel_address", text(64)),
    # Ids of routers that it has and cannot make. NULL: none.
    sa.Column("failed_routers", Json(list[str])),
    # Key → what the aggregates that it is in say of it; NULL: it is in none.
    sa.Column("aggregate_metadata", Json(dict[str, list[str]])),
    sa.Column("servers", sa.Integer, nullable=False),
    sa.Column("failed_builds", sa.Integer, nullable=False),
    # Grows with every change of a claim or of what the host is (invariant 7).
    sa.Column("generation", sa.BigInteger, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("updated_at", sa.Float, nullable=False),
    sa.Index("ix_hosts_updated_at", "updated_at"),
    sa.Index("ix_hosts_follows_network", "follows_network"),
)

claims = sa.Table(
    "claims",
    metadata,
    uuid_column("server_id", primary_key=True),
    sa.Column("host", text(255), primary_key=True),
    sa.Column("vcpus", sa.BigInteger, nullable=False),
    sa.Column("memory_mb", sa.BigInteger, nullable=False),
    sa.Column("disk_gb", sa.BigInteger, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Index("ix_claims_host", "host"),
)
