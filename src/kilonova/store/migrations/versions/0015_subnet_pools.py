"""Subnet pools, the default external network, auto-allocated topologies, zones of routers"""

from __future__ import annotations

from functools import partial

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

_POOLS, _TOPOLOGIES = "subnet_pools", "auto_allocated_topologies"


def _text(length: int | None = None) -> sa.types.TypeEngine[str]:
    plain = sa.Text if length is None else partial(sa.String, length)
    return plain().with_variant(plain(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        _POOLS,
        sa.Column("id", _text(36), nullable=False),
        sa.Column("project_id", _text(64), nullable=False),
        sa.Column("name", _text(255), nullable=False),
        sa.Column("description", _text(255), nullable=False),
        sa.Column("revision_number", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.Column("ip_version", sa.Integer(), nullable=False),
        sa.Column("prefixes", _text(), nullable=False),
        sa.Column("min_prefixlen", sa.Integer(), nullable=False),
        sa.Column("max_prefixlen", sa.Integer(), nullable=False),
        sa.Column("default_prefixlen", sa.Integer(), nullable=False),
        sa.Column("default_quota", sa.BigInteger()),
        sa.Column("shared", sa.Boolean(), nullable=False),
        sa.Column("is_default", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f(f"pk_{_POOLS}")),
    )
    op.create_index(op.f(f"ix_{_POOLS}_project_id"), _POOLS, ["project_id"])
    op.create_table(
        _TOPOLOGIES,
        sa.Column("project_id", _text(64), nullable=False),
        sa.Column("network_id", _text(36), nullable=False),
        sa.Column("router_id", _text(36)),
        sa.ForeignKeyConstraint(
            ["network_id"], ["networks.id"], name=op.f(f"fk_{_TOPOLOGIES}_network_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["router_id"], ["routers.id"], name=op.f(f"fk_{_TOPOLOGIES}_router_id"), ondelete="SET NULL"
        ),
        sa.PrimaryKeyConstraint("project_id", name=op.f(f"pk_{_TOPOLOGIES}")),
        sa.UniqueConstraint("network_id", name=op.f(f"uq_{_TOPOLOGIES}_network_id")),
    )
    op.create_index(op.f(f"ix_{_TOPOLOGIES}_router_id"), _TOPOLOGIES, ["router_id"])
    # NULL is what the release before goes on to write: of no pool, not the default, in any zone.
    op.add_column("subnets", sa.Column("subnetpool_id", _text(36)))
    op.create_index(op.f("ix_subnets_subnetpool_id"), "subnets", ["subnetpool_id"])
    op.add_column("networks", sa.Column("is_default", sa.Boolean()))
    op.add_column("routers", sa.Column("availability_zone_hints", _text()))


def downgrade() -> None:
    op.drop_column("routers", "availability_zone_hints")
    op.drop_column("networks", "is_default")
    op.drop_index(op.f("ix_subnets_subnetpool_id"), table_name="subnets")
    op.drop_column("subnets", "subnetpool_id")
    op.drop_table(_TOPOLOGIES)
    op.drop_table(_POOLS)
