"""The disks that servers were asked for with, and the volumes that they have"""

from __future__ import annotations

from functools import partial

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def _text(length: int | None = None) -> sa.types.TypeEngine[str]:
    plain = sa.Text if length is None else partial(sa.String, length)
    return plain().with_variant(plain(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "block_device_mappings",
        sa.Column("id", _text(36), nullable=False),
        sa.Column("server_id", _text(36), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("source_type", _text(16), nullable=False),
        sa.Column("destination_type", _text(16), nullable=False),
        sa.Column("image", sa.Text()),
        sa.Column("snapshot_id", _text(36)),
        sa.Column("volume_id", _text(36)),
        sa.Column("attachment_id", _text(36)),
        sa.Column("volume_size", sa.Integer()),
        sa.Column("volume_type", _text(255)),
        sa.Column("boot_index", sa.Integer()),
        sa.Column("device_name", _text(255), nullable=False),
        sa.Column("disk_bus", _text(255)),
        sa.Column("device_type", _text(255), nullable=False),
        sa.Column("guest_format", _text(255)),
        sa.Column("tag", _text(255)),
        sa.Column("delete_on_termination", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["server_id"],
            ["servers.id"],
            name="fk_block_device_mappings_server_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_block_device_mappings"),
    )
    op.create_index("ix_block_device_mappings_server", "block_device_mappings", ["server_id", "position"])
    op.create_index("ix_block_device_mappings_volume", "block_device_mappings", ["volume_id"])


def downgrade() -> None:
    op.drop_table("block_device_mappings")
