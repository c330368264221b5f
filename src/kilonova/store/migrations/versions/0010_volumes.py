"""Volumes, their snapshots, attachments, types, transfers, quotas and backends"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def _text(length: int | None = None) -> sa.types.TypeEngine[str]:
    if length is None:
        return sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "default_volume_types",
        sa.Column("project_id", _text(255), nullable=False),
        sa.Column("volume_type_id", _text(36), nullable=False),
        sa.PrimaryKeyConstraint("project_id", name=op.f("pk_default_volume_types")),
    )
    op.create_table(
        "volume_attachments",
        sa.Column("id", _text(36), nullable=False),
        sa.Column("volume_id", _text(36), nullable=False),
        sa.Column("project_id", _text(64), nullable=False),
        sa.Column("server_id", _text(64), nullable=True),
        sa.Column("host", _text(255), nullable=True),
        sa.Column("mountpoint", _text(255), nullable=True),
        sa.Column("attach_mode", _text(8), nullable=False),
        sa.Column("status", _text(16), nullable=False),
        sa.Column("connector", sa.Text(), nullable=True),
        sa.Column("connection", sa.Text(), nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("attached_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_volume_attachments")),
    )
    op.create_index(op.f("ix_volume_attachments_created_at_id"), "volume_attachments", ["created_at", "id"])
    op.create_index(op.f("ix_volume_attachments_project_id"), "volume_attachments", ["project_id"])
    op.create_index(op.f("ix_volume_attachments_server_id"), "volume_attachments", ["server_id"])
    op.create_index(op.f("ix_volume_attachments_volume_id"), "volume_attachments", ["volume_id"])
    op.create_table(
        "volume_backends",
        sa.Column("host", _text(255), nullable=False),
        sa.Column("pool", _text(255), nullable=False),
        sa.Column("volume_backend_name", _text(255), nullable=False),
        sa.Column("driver", _text(32), nullable=False),
        sa.Column("availability_zone", _text(255), nullable=False),
        sa.Column("total_gb", sa.Float(), nullable=True),
        sa.Column("free_gb", sa.Float(), nullable=True),
        sa.Column("multiattach", sa.Boolean(), nullable=False),
        sa.Column("shared", sa.Boolean(), nullable=False),
        sa.Column("problem", _text(), nullable=True),
        sa.Column("disabled", sa.Boolean(), nullable=False),
        sa.Column("disabled_reason", _text(255), nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("reported_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("host", name=op.f("pk_volume_backends")),
    )
    op.create_table(
        "volume_messages",
        sa.Column("id", _text(36), nullable=False),
        sa.Column("project_id", _text(64), nullable=False),
        sa.Column("request_id", _text(64), nullable=False),
        sa.Column("resource_type", _text(36), nullable=False),
        sa.Column("resource_uuid", _text(36), nullable=False),
        sa.Column("event_id", _text(64), nullable=False),
        sa.Column("level", _text(16), nullable=False),
        sa.Column("text", _text(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_volume_messages")),
    )
    op.create_index(op.f("ix_volume_messages_expires_at"), "volume_messages", ["expires_at"])
    op.create_index(op.f("ix_volume_messages_project_id"), "volume_messages", ["project_id"])
    op.create_index(op.f("ix_volume_messages_resource_uuid"), "volume_messages", ["resource_uuid"])
    op.create_table(
        "volume_quotas",
        sa.Column("project_id", _text(64), nullable=False),
        sa.Column("resource", _text(300), nullable=False),
        sa.Column("limit", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("project_id", "resource", name=op.f("pk_volume_quotas")),
    )
    op.create_table(
        "volume_snapshots",
        sa.Column("id", _text(36), nullable=False),
        sa.Column("volume_id", _text(36), nullable=False),
        sa.Column("project_id", _text(64), nullable=False),
        sa.Column("user_id", _text(64), nullable=False),
        sa.Column("name", _text(255), nullable=True),
        sa.Column("description", _text(255), nullable=True),
        sa.Column("status", _text(32), nullable=False),
        sa.Column("message", _text(), nullable=True),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("volume_type_id", _text(36), nullable=False),
        sa.Column("bootable", sa.Boolean(), nullable=False),
        sa.Column("metadata", sa.Text(), nullable=False),
        sa.Column("image_metadata", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_volume_snapshots")),
    )
    op.create_index(op.f("ix_volume_snapshots_created_at_id"), "volume_snapshots", ["created_at", "id"])
    op.create_index(
        op.f("ix_volume_snapshots_project_id_created_at"), "volume_snapshots", ["project_id", "created_at"]
    )
    op.create_index(op.f("ix_volume_snapshots_status"), "volume_snapshots", ["status"])
    op.create_index(op.f("ix_volume_snapshots_volume_id"), "volume_snapshots", ["volume_id"])
    op.create_table(
        "volume_transfers",
        sa.Column("id", _text(36), nullable=False),
        sa.Column("volume_id", _text(36), nullable=False),
        sa.Column("name", _text(255), nullable=False),
        sa.Column("source_project_id", _text(64), nullable=False),
        sa.Column("destination_project_id", _text(64), nullable=True),
        sa.Column("accepted", sa.Boolean(), nullable=False),
        sa.Column("no_snapshots", sa.Boolean(), nullable=False),
        sa.Column("salt", _text(64), nullable=False),
        sa.Column("key_hash", _text(128), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_volume_transfers")),
    )
    op.create_index(op.f("ix_volume_transfers_source_project_id"), "volume_transfers", ["source_project_id"])
    op.create_index(op.f("ix_volume_transfers_volume_id"), "volume_transfers", ["volume_id"])
    op.create_table(
        "volume_types",
        sa.Column("id", _text(36), nullable=False),
        sa.Column("name", _text(255), nullable=False),
        sa.Column("description", _text(255), nullable=True),
        sa.Column("is_public", sa.Boolean(), nullable=False),
        sa.Column("extra_specs", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_volume_types")),
        sa.UniqueConstraint("name", name=op.f("uq_volume_types_name")),
    )
    op.create_table(
        "volumes",
        sa.Column("id", _text(36), nullable=False),
        sa.Column("project_id", _text(64), nullable=False),
        sa.Column("user_id", _text(64), nullable=False),
        sa.Column("name", _text(255), nullable=True),
        sa.Column("description", _text(255), nullable=True),
        sa.Column("status", _text(32), nullable=False),
        sa.Column("previous_status", _text(32), nullable=True),
        sa.Column("message", _text(), nullable=True),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("new_size", sa.Integer(), nullable=True),
        sa.Column("volume_type_id", _text(36), nullable=False),
        sa.Column("availability_zone", _text(255), nullable=False),
        sa.Column("host", _text(255), nullable=True),
        sa.Column("bootable", sa.Boolean(), nullable=False),
        sa.Column("multiattach", sa.Boolean(), nullable=False),
        sa.Column("readonly", sa.Boolean(), nullable=True),
        sa.Column("image_id", _text(36), nullable=True),
        sa.Column("snapshot_id", _text(36), nullable=True),
        sa.Column("source_volid", _text(36), nullable=True),
        sa.Column("metadata", sa.Text(), nullable=False),
        sa.Column("image_metadata", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=True),
        sa.Column("launched_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_volumes")),
    )
    op.create_index(op.f("ix_volumes_created_at_id"), "volumes", ["created_at", "id"])
    op.create_index(op.f("ix_volumes_host"), "volumes", ["host"])
    op.create_index(op.f("ix_volumes_project_id_created_at"), "volumes", ["project_id", "created_at"])
    op.create_index(op.f("ix_volumes_status"), "volumes", ["status"])
    op.create_index(op.f("ix_volumes_volume_type_id"), "volumes", ["volume_type_id"])
    op.create_table(
        "volume_type_access",
        sa.Column("volume_type_id", _text(36), nullable=False),
        sa.Column("project_id", _text(255), nullable=False),
        sa.ForeignKeyConstraint(
            ["volume_type_id"],
            ["volume_types.id"],
            name=op.f("fk_volume_type_access_volume_type_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("volume_type_id", "project_id", name=op.f("pk_volume_type_access")),
    )
    op.create_index(op.f("ix_volume_type_access_project_id"), "volume_type_access", ["project_id"])


def downgrade() -> None:
    op.drop_table("volume_type_access")
    op.drop_table("volumes")
    op.drop_table("volume_types")
    op.drop_table("volume_transfers")
    op.drop_table("volume_snapshots")
    op.drop_table("volume_quotas")
    op.drop_table("volume_messages")
    op.drop_table("volume_backends")
    op.drop_table("volume_attachments")
    op.drop_table("default_volume_types")
