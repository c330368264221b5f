"""Routers, external networks, floating IPs"""

from __future__ import annotations

from functools import partial

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def _text(length: int | None = None) -> sa.types.TypeEngine[str]:
    plain = sa.Text if length is None else partial(sa.String, length)
    return plain().with_variant(plain(collation="C"), "postgresql")


def _standard() -> list[sa.Column[object]]:
    return [
        sa.Column("revision_number", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
    ]


def upgrade() -> None:
    # NULL is what the release before goes on to write.
    op.add_column("networks", sa.Column("external", sa.Boolean()))
    op.create_table(
        "routers",
        sa.Column("id", _text(36), nullable=False),
        sa.Column("project_id", _text(64), nullable=False),
        sa.Column("name", _text(255), nullable=False),
        sa.Column("description", _text(255), nullable=False),
        *_standard(),
        sa.Column("admin_state_up", sa.Boolean(), nullable=False),
        sa.Column("enable_snat", sa.Boolean(), nullable=False),
        sa.Column("gateway_port_id", _text(36)),
        sa.Column("routes", sa.Text(), nullable=False),
        sa.Column("host", _text(255), nullable=False),
        sa.ForeignKeyConstraint(["gateway_port_id"], ["ports.id"], name=op.f("fk_routers_gateway_port_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_routers")),
    )
    for column in ("project_id", "gateway_port_id", "host"):
        op.create_index(op.f(f"ix_routers_{column}"), "routers", [column])
    _floating_ips()


def _floating_ips() -> None:
    op.create_table(
        "floating_ips",
        sa.Column("id", _text(36), nullable=False),
        sa.Column("project_id", _text(64), nullable=False),
        sa.Column("description", _text(255), nullable=False),
        *_standard(),
        sa.Column("floating_network_id", _text(36), nullable=False),
        sa.Column("floating_ip_address", _text(64), nullable=False),
        sa.Column("floating_port_id", _text(36), nullable=False),
        sa.Column("fixed_port_id", _text(36)),
        sa.Column("fixed_ip_address", _text(64)),
        sa.Column("router_id", _text(36)),
        sa.ForeignKeyConstraint(
            ["floating_network_id"], ["networks.id"], name=op.f("fk_floating_ips_floating_network_id")
        ),
        sa.ForeignKeyConstraint(
            ["floating_port_id"], ["ports.id"], name=op.f("fk_floating_ips_floating_port_id")
        ),
        sa.ForeignKeyConstraint(
            ["fixed_port_id"], ["ports.id"], name=op.f("fk_floating_ips_fixed_port_id"), ondelete="SET NULL"
        ),
        sa.ForeignKeyConstraint(["router_id"], ["routers.id"], name=op.f("fk_floating_ips_router_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_floating_ips")),
        sa.UniqueConstraint(
            "floating_network_id",
            "fixed_port_id",
            "fixed_ip_address",
            name=op.f("uq_floating_ips_floating_network_id_fixed_port_id_fixed_ip_address"),
        ),
    )
    for column in ("project_id", "floating_port_id", "fixed_port_id", "router_id"):
        op.create_index(op.f(f"ix_floating_ips_{column}"), "floating_ips", [column])


def downgrade() -> None:
    op.drop_table("floating_ips")
    op.drop_table("routers")
    op.drop_column("networks", "external")
