"""Volumes, their snapshots, attachments and transfers, and the managers that keep their bytes."""

from __future__ import annotations

import sqlalchemy as sa

from kilonova.store.schema.base import Json, metadata, text, uuid_column

volumes = sa.Table(
    "volumes",
    metadata,
    uuid_column("id", primary_key=True),
    sa.Column("project_id", text(64), nullable=False),
    sa.Column("user_id", text(64), nullable=False),
    sa.Column("name", text(255)),
    sa.Column("description", text(255)),
    sa.Column("status", text(32), nullable=False, index=True),
    # What it goes back to when an upload, a retype or an extension has ended.
    sa.Column("previous_status", text(32)),
    # Why it is in an error; what the last operation that failed said.
    sa.Column("message", text()),
    sa.Column("size", sa.Integer, nullable=False),  # GiB
    # While it is being extended: what the quota counts.
    sa.Column("new_size", sa.Integer),
    uuid_column("volume_type_id", nullable=False, index=True),
    # While it is being moved to another backend: counted beside what it is.
    uuid_column("new_type_id"),
    sa.Column("new_host", text(255)),
    sa.Column("migration_status", text(32)),  # of its last move; NULL: it was never moved
    sa.Column("availability_zone", text(255), nullable=False),
    sa.Column("host", text(255), index=True),  # name@backend#pool; NULL: no backend took it
    sa.Column("bootable", sa.Boolean, nullable=False),
    sa.Column("multiattach", sa.Boolean, nullable=False),
    sa.Column("readonly", sa.Boolean),  # NULL: nobody has said
    uuid_column("image_id"),  # that it was made of
    uuid_column("snapshot_id"),
    uuid_column("source_volid"),
    sa.Column("metadata", Json(dict[str, str]), nullable=False),
    sa.Column("image_metadata", Json(dict[str, str]), nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("updated_at", sa.Float),
    sa.Column("launched_at", sa.Float),
    sa.Index(None, "project_id", "created_at"),
    sa.Index(None, "created_at", "id"),
)

volume_snapshots = sa.Table(
    "volume_snapshots",
    metadata,
    uuid_column("id", primary_key=True),
    # No foreign key: a transfer may part them for a moment.
    uuid_column("volume_id", nullable=False, index=True),
    sa.Column("project_id", text(64), nullable=False),
    sa.Column("user_id", text(64), nullable=False),
    sa.Column("name", text(255)),
    sa.Column("description", text(255)),
    sa.Column("status", text(32), nullable=False, index=True),
    sa.Column("message", text()),
    sa.Column("size", sa.Integer, nullable=False),  # GiB, of its volume then
    uuid_column("volume_type_id", nullable=False),
    sa.Column("bootable", sa.Boolean, nullable=False),
    sa.Column("metadata", Json(dict[str, str]), nullable=False),
    sa.Column("image_metadata", Json(dict[str, str]), nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("updated_at", sa.Float),
    sa.Index(None, "project_id", "created_at"),
    sa.Index(None, "created_at", "id"),
)

volume_attachments = sa.Table(
    "volume_attachments",
    metadata,
    uuid_column("id", primary_key=True),
    uuid_column("volume_id", nullable=False, index=True),
    sa.Column("project_id", text(64), nullable=False, index=True),
    sa.Column("server_id", text(64), index=True),  # NULL: no server, a host by itself
    sa.Column("host", text(255)),
    sa.Column("mountpoint", text(255)),
    sa.Column("attach_mode", text(8), nullable=False),  # rw, ro
    sa.Column("status", text(16), nullable=False),
    sa.Column("connector", Json()),
    # The way there as it was given last, without its password.
    sa.Column("connection", Json()),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("attached_at", sa.Float),
    sa.Index(None, "created_at", "id"),
)

volume_types = sa.Table(
    "volume_types",
    metadata,
    uuid_column("id", primary_key=True),
    sa.Column("name", text(255), nullable=False, unique=True),
    sa.Column("description", text(255)),
    sa.Column("is_public", sa.Boolean, nullable=False),
    sa.Column("extra_specs", Json(dict[str, str]), nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("updated_at", sa.Float),
)

volume_type_access = sa.Table(
    "volume_type_access",
    metadata,
    uuid_column("volume_type_id", sa.ForeignKey("volume_types.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("project_id", text(255), primary_key=True, index=True),
)

default_volume_types = sa.Table(
    "default_volume_types",
    metadata,
    sa.Column("project_id", text(255), primary_key=True),
    uuid_column("volume_type_id", nullable=False),
)

volume_transfers = sa.Table(
    "volume_transfers",
    metadata,
    uuid_column("id", primary_key=True),
    # At most one offer of a volume is open.
    uuid_column("volume_id", nullable=False, index=True),
    sa.Column("name", text(255), nullable=False),
    sa.Column("source_project_id", text(64), nullable=False, index=True),
    sa.Column("destination_project_id", text(64)),
    sa.Column("accepted", sa.Boolean, nullable=False),
    sa.Column("no_snapshots", sa.Boolean, nullable=False),
    sa.Column("salt", text(64), nullable=False),
    sa.Column("key_hash", text(128), nullable=False),  # of the authorization key
    sa.Column("created_at", sa.Float, nullable=False),
)

# project_id '' is every project's: the quota class "default".
volume_quotas = sa.Table(
    "volume_quotas",
    metadata,
    sa.Column("project_id", text(64), primary_key=True),
    sa.Column("resource", text(300), primary_key=True),  # gigabytes, and gigabytes_<name of a type>
    sa.Column("limit", sa.Integer, nullable=False),  # -1: none
)

volume_backends = sa.Table(
    "volume_backends",
    metadata,
    sa.Column("host", text(255), primary_key=True),  # name@backend
    sa.Column("pool", text(255), nullable=False),
    sa.Column("volume_backend_name", text(255), nullable=False),
    sa.Column("driver", text(32), nullable=False),
    sa.Column("availability_zone", text(255), nullable=False),
    sa.Column("total_gb", sa.Float),  # NULL: it cannot tell
    sa.Column("free_gb", sa.Float),
    sa.Column("multiattach", sa.Boolean, nullable=False),
    sa.Column("shared", sa.Boolean, nullable=False),
    sa.Column("problem", text()),  # why it cannot be worked with now
    sa.Column("disabled", sa.Boolean, nullable=False),
    sa.Column("disabled_reason", text(255)),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("reported_at", sa.Float, nullable=False),
)

volume_messages = sa.Table(
    "volume_messages",
    metadata,
    uuid_column("id", primary_key=True),
    sa.Column("project_id", text(64), nullable=False, index=True),
    sa.Column("request_id", text(64), nullable=False),
    sa.Column("resource_type", text(36), nullable=False),  # VOLUME, VOLUME_SNAPSHOT
    uuid_column("resource_uuid", nullable=False, index=True),
    sa.Column("event_id", text(64), nullable=False),
    sa.Column("level", text(16), nullable=False),
    sa.Column("text", text(), nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("expires_at", sa.Float, nullable=False, index=True),
)
