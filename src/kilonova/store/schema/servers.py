"""Servers, their tags, and what each project uses."""

from __future__ import annotations

import sqlalchemy as sa

from kilonova.domain.network import Vif
from kilonova.domain.servers import BuildSpec, Flavor, ImageRef
from kilonova.store.schema.base import Json, metadata, text, uuid_column

servers = sa.Table(
    "servers",
    metadata,
    uuid_column("id", primary_key=True),
    sa.Column("project_id", text(64), nullable=False),
    sa.Column("user_id", text(64), nullable=False),
    sa.Column("name", text(255), nullable=False),
    sa.Column("hostname", text(255), nullable=False),
    sa.Column("description", text(255)),
    sa.Column("vm_state", text(32), nullable=False),
    sa.Column("task_state", text(32)),
    sa.Column("power_state", sa.Integer, nullable=False, default=0),
    sa.Column("host", text(255)),
    sa.Column("availability_zone", text(255)),
    sa.Column("flavor_id", text(255), nullable=False),
    sa.Column("flavor", Json(Flavor), nullable=False),
    sa.Column("image_id", text(36)),
    sa.Column("image", Json(ImageRef)),
    sa.Column("key_name", text(255)),
    sa.Column("config_drive", sa.Boolean, nullable=False, default=False),
    sa.Column("auto_disk_config", sa.Boolean, nullable=False, default=False),
    sa.Column("access_ip_v4", text(45)),
    sa.Column("access_ip_v6", text(45)),
    sa.Column("pinned_availability_zone", text(255)),  # asked for at boot; moves stay inside it
    sa.Column("scheduler_hints", Json(), nullable=False, default={}),
    sa.Column("metadata", Json(dict[str, str]), nullable=False),
    sa.Column("vifs", Json(list[Vif]), nullable=False),
    sa.Column("locked_by", text(8)),  # NULL, owner or admin
    sa.Column("locked_reason", text(255)),
    sa.Column("fault", Json()),  # {code, message, details, created}
    sa.Column("launch_index", sa.Integer, nullable=False, default=0),
    sa.Column("reservation_id", text(32), nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("updated_at", sa.Float, nullable=False),
    sa.Column("launched_at", sa.Float),
    sa.Column("terminated_at", sa.Float),
    sa.Column("deleted_at", sa.Float),  # NULL while it exists
    # What it was on its disk when it was shelved; NULL: it is not.
    uuid_column("shelved_image_id"),
    sa.Column("shelved_at", sa.Float),
    # base64, for who may see it: also part of the spec, which is what hosts get.
    sa.Column("user_data", text()),
    # All that a host needs to build it. Big: never read by a list.
    sa.Column("spec", Json(BuildSpec), nullable=False),
    sa.Index("ix_servers_project_created", "project_id", "deleted_at", "created_at", "id"),
    sa.Index("ix_servers_created", "deleted_at", "created_at", "id"),
    sa.Index("ix_servers_host", "host", "deleted_at"),
    sa.Index("ix_servers_vm_state", "vm_state", "deleted_at"),
    sa.Index("ix_servers_reservation_id", "reservation_id"),
)

server_tags = sa.Table(
    "server_tags",
    metadata,
    uuid_column("server_id", sa.ForeignKey("servers.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("tag", text(80), primary_key=True),
    sa.Index("ix_server_tags_tag", "tag", "server_id"),
)

# Kept with the servers in the same transactions, so that a quota is one conditional UPDATE.
project_usage = sa.Table(
    "project_usage",
    metadata,
    sa.Column("project_id", text(64), primary_key=True),
    sa.Column("instances", sa.BigInteger, nullable=False),
    sa.Column("cores", sa.BigInteger, nullable=False),
    sa.Column("ram", sa.BigInteger, nullable=False),  # MiB
)
