"""Routers and floating IPs (Neutron's resources).

A router's ports are rows of ``ports``: its interfaces by ``device_id`` and ``device_owner``, its gateway by
``gateway_port_id``.
"""

from __future__ import annotations

import sqlalchemy as sa

from kilonova.domain.network import HostRoute
from kilonova.store.schema.base import Json, metadata, text, uuid_column

routers = sa.Table(
    "routers",
    metadata,
    uuid_column("id", primary_key=True),
    sa.Column("project_id", text(64), nullable=False, index=True),
    sa.Column("name", text(255), nullable=False),
    sa.Column("description", text(255), nullable=False),
    sa.Column("revision_number", sa.Integer, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("updated_at", sa.Float, nullable=False),
    sa.Column("admin_state_up", sa.Boolean, nullable=False),
    sa.Column("enable_snat", sa.Boolean, nullable=False),
    uuid_column("gateway_port_id", sa.ForeignKey("ports.id"), index=True),
    sa.Column("routes", Json(list[HostRoute]), nullable=False),
    # The one host that it is on; empty: none.
    sa.Column("host", text(255), nullable=False, index=True),
    # The zones that it may be in. NULL, what a release without them goes on to write: any.
    sa.Column("availability_zone_hints", Json(list[str])),
)

floating_ips = sa.Table(
    "floating_ips",
    metadata,
    uuid_column("id", primary_key=True),
    sa.Column("project_id", text(64), nullable=False, index=True),
    sa.Column("description", text(255), nullable=False),
    sa.Column("revision_number", sa.Integer, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("updated_at", sa.Float, nullable=False),
    uuid_column("floating_network_id", sa.ForeignKey("networks.id"), nullable=False),
    sa.Column("floating_ip_address", text(64), nullable=False),
    uuid_column("floating_port_id", sa.ForeignKey("ports.id"), nullable=False, index=True),
    # A port that goes, whoever deletes it, leaves its floating IPs free.
    uuid_column("fixed_port_id", sa.ForeignKey("ports.id", ondelete="SET NULL"), index=True),
    sa.Column("fixed_ip_address", text(64)),
    uuid_column("router_id", sa.ForeignKey("routers.id"), index=True),
    # An address of a port has one floating IP of an external network.
    sa.UniqueConstraint("floating_network_id", "fixed_port_id", "fixed_ip_address"),
)

# Ports of a floating IP that lead inside; its row's lock is theirs.
port_forwardings = sa.Table(
    "port_forwardings",
    metadata,
    uuid_column("id", primary_key=True),
    uuid_column(
        "floating_ip_id", sa.ForeignKey("floating_ips.id", ondelete="CASCADE"), nullable=False, index=True
    ),
    # A port that goes, whoever deletes it, takes what led to it along.
    uuid_column("port_id", sa.ForeignKey("ports.id", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("fixed_ip_address", text(64), nullable=False),
    sa.Column("protocol", text(16), nullable=False),
    sa.Column("external_first", sa.Integer, nullable=False),
    sa.Column("external_last", sa.Integer, nullable=False),
    sa.Column("internal_first", sa.Integer, nullable=False),
    sa.Column("internal_last", sa.Integer, nullable=False),
    sa.Column("description", text(255), nullable=False),
)
