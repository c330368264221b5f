"""Images, their properties and tags, and the projects they are shared with."""

from __future__ import annotations

import sqlalchemy as sa

from kilonova.store.schema.base import metadata, uuid_column

images = sa.Table(
    "images",
    metadata,
    uuid_column("id", primary_key=True),
    sa.Column("status", sa.String(16), nullable=False, index=True),
    sa.Column("name", sa.String(255), index=True),
    sa.Column("owner", sa.String(255), index=True),
    sa.Column("visibility", sa.String(16), nullable=False),
    sa.Column("disk_format", sa.String(20)),
    sa.Column("container_format", sa.String(20)),
    sa.Column("min_disk", sa.Integer, nullable=False),
    sa.Column("min_ram", sa.Integer, nullable=False),
    sa.Column("protected", sa.Boolean, nullable=False),
    sa.Column("os_hidden", sa.Boolean, nullable=False),
    sa.Column("size", sa.BigInteger),
    sa.Column("virtual_size", sa.BigInteger),
    sa.Column("checksum", sa.String(32)),
    sa.Column("os_hash_algo", sa.String(64)),
    sa.Column("os_hash_value", sa.String(128)),
    sa.Column("created_at", sa.Float, nullable=False, index=True),
    sa.Column("updated_at", sa.Float, nullable=False),
    sa.Column("deleted_at", sa.Float),
)

image_properties = sa.Table(
    "image_properties",
    metadata,
    uuid_column("image_id", sa.ForeignKey("images.id"), primary_key=True),
    sa.Column("name", sa.String(255), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)

image_tags = sa.Table(
    "image_tags",
    metadata,
    uuid_column("image_id", sa.ForeignKey("images.id"), primary_key=True),
    sa.Column("value", sa.String(255), primary_key=True),
)

image_members = sa.Table(
    "image_members",
    metadata,
    uuid_column("image_id", sa.ForeignKey("images.id"), primary_key=True),
    sa.Column("member_id", sa.String(255), primary_key=True, index=True),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("updated_at", sa.Float, nullable=False),
)
