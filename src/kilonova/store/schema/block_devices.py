"""The table of block device mappings: what disks were asked for, and which volumes servers have."""

from __future__ import annotations

import sqlalchemy as sa

from kilonova.domain.servers import ImageRef
from kilonova.store.schema.base import Json, metadata, text, uuid_column

block_device_mappings = sa.Table(
    "block_device_mappings",
    metadata,
    uuid_column("id", primary_key=True),
    uuid_column("server_id", sa.ForeignKey("servers.id", ondelete="CASCADE"), nullable=False),
    sa.Column("position", sa.Integer, nullable=False),  # among the server's
    sa.Column("source_type", text(16), nullable=False),
    sa.Column("destination_type", text(16), nullable=False),
    sa.Column("image", Json(ImageRef)),  # that a new volume is made of
    uuid_column("snapshot_id"),
    uuid_column("volume_id"),
    uuid_column("attachment_id"),  # while the server has it, or it is promised
    sa.Column("volume_size", sa.Integer),  # GiB; MiB of swap
    sa.Column("volume_type", text(255)),
    sa.Column("boot_index", sa.Integer),
    sa.Column("device_name", text(255), nullable=False),
    sa.Column("disk_bus", text(255)),
    sa.Column("device_type", text(255), nullable=False),
    sa.Column("guest_format", text(255)),
    sa.Column("tag", text(255)),
    sa.Column("delete_on_termination", sa.Boolean, nullable=False),
    sa.Index("ix_block_device_mappings_server", "server_id", "position"),
    sa.Index("ix_block_device_mappings_volume", "volume_id"),
)
