"""Images, their properties and tags, and the projects they are shared with."""

from __future__ import annotations

import sqlalchemy as sa

from kilonova.store.schema.base import metadata, text, uuid_column

images = sa.Table(
    "images",
    metadata,
    uuid_column("id", primary_key=True),
    sa.Column("status", text(16), nullable=False, index=True),
    sa.Column("name", text(255), index=True),
    sa.Column("owner", text(255), index=True),
    sa.Column("visibility", text(16), nullable=False),
    sa.Column("disk_format", text(20)),
    sa.Column("container_format", text(20)),
    sa.Column("min_disk", sa.Integer, nullable=False),
    sa.Column("min_ram", sa.Integer, nullable=False),
    sa.Column("protected", sa.Boolean, nullable=False),
    sa.Column("os_hidden", sa.Boolean, nullable=False),
    sa.Column("size", sa.BigInteger),
    sa.Column("virtual_size", sa.BigInteger),
    sa.Column("checksum", text(32)),
    sa.Column("os_hash_algo", text(64)),
    sa.Column("os_hash_value", text(128)),
    # Which store keeps it; NULL: files.
    sa.Column("store", text(16)),
    # disk_image/tree_hash.py; NULL: it came when there was none.
    sa.Column("tree_hash", text(64)),
    # While it is saving, and after: the token of who writes its bytes (image/writers.py). NULL: nobody says.
    sa.Column("saved_by", text(64)),
    sa.Column("created_at", sa.Float, nullable=False, index=True),
    sa.Column("updated_at", sa.Float, nullable=False),
    sa.Column("deleted_at", sa.Float),
)

image_properties = sa.Table(
    "image_properties",
    metadata,
    uuid_column("image_id", sa.ForeignKey("images.id"), primary_key=True),
    sa.Column("name", text(255), primary_key=True),
    sa.Column("value", text(), nullable=False),
)

image_tags = sa.Table(
    "image_tags",
    metadata,
    uuid_column("image_id", sa.ForeignKey("images.id"), primary_key=True),
    sa.Column("value", text(255), primary_key=True),
)

image_members = sa.Table(
    "image_members",
    metadata,
    uuid_column("image_id", sa.ForeignKey("images.id"), primary_key=True),
    sa.Column("member_id", text(255), primary_key=True, index=True),
    sa.Column("status", text(16), nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("updated_at", sa.Float, nullable=False),
)
