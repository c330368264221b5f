"""Ports of floating IPs that lead inside"""

from __future__ import annotations

from functools import partial

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def _text(length: int | None = None) -> sa.types.TypeEngine[str]:
    plain = sa.Text if length is None else partial(sa.String, length)
    return plain().with_variant(plain(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "port_forwardings",
        sa.Column("id", _text(36), nullable=False),
        sa.Column("floating_ip_id", _text(36), nullable=False),
        sa.Column("port_id", _text(36), nullable=False),
        sa.Column("fixed_ip_address", _text(64), nullable=False),
        sa.Column("protocol", _text(16), nullable=False),
        sa.Column("external_first", sa.Integer(), nullable=False),
        sa.Column("external_last", sa.Integer(), nullable=False),
        sa.Column("internal_first", sa.Integer(), nullable=False),
        sa.Column("internal_last", sa.Integer(), nullable=False),
        sa.Column("description", _text(255), nullable=False),
        sa.ForeignKeyConstraint(
            ["floating_ip_id"],
            ["floating_ips.id"],
            name=op.f("fk_port_forwardings_floating_ip_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["port_id"], ["ports.id"], name=op.f("fk_port_forwardings_port_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_port_forwardings")),
    )
    op.create_index(op.f("ix_port_forwardings_floating_ip_id"), "port_forwardings", ["floating_ip_id"])
    op.create_index(op.f("ix_port_forwardings_port_id"), "port_forwardings", ["port_id"])


def downgrade() -> None:
    op.drop_table("port_forwardings")
