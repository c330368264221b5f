"""With which projects networks are shared"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


_NETWORKS = sa.table(
    "networks",
    sa.column("id", sa.String),
    sa.column("project_id"),
    sa.column("shared", sa.Boolean),
    sa.column("external", sa.Boolean),
)


def _text(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    # NULL is what the release before goes on to write: an external network is everybody's.
    op.add_column("networks", sa.Column("external_restricted", sa.Boolean()))
    op.create_table(
        "network_rbac",
        sa.Column("id", _text(36), nullable=False),
        sa.Column("project_id", _text(64), nullable=False),
        sa.Column("object_id", _text(36), nullable=False),
        sa.Column("action", _text(32), nullable=False),
        sa.Column("target_tenant", _text(64), nullable=False),
        sa.ForeignKeyConstraint(
            ["object_id"],
            ["networks.id"],
            name=op.f("fk_network_rbac_object_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_network_rbac")),
        sa.UniqueConstraint(
            "object_id",
            "action",
            "target_tenant",
            name=op.f("uq_network_rbac_object_id_action_target_tenant"),
        ),
    )
    op.create_index(op.f("ix_network_rbac_project_id"), "network_rbac", ["project_id"])
    op.create_index(op.f("ix_network_rbac_target_tenant"), "network_rbac", ["target_tenant"])
    _put("access_as_shared", "3", _NETWORKS.c.shared)
    _put("access_as_external", "5", _NETWORKS.c.external)


def _put(action: str, digit: str, shared: sa.ColumnElement[bool]) -> None:
    """What is everybody's has its policy. The id is the network's with another digit for its version: a UUID
    that nobody has."""
    own = _NETWORKS.c
    made = sa.func.substr(own.id, 1, 14).concat(digit).concat(sa.func.substr(own.id, 16))
    found = sa.select(made, own.project_id, own.id, sa.literal(action), sa.literal("*")).where(shared)
    columns = ["id", "project_id", "object_id", "action", "target_tenant"]
    op.execute(sa.table("network_rbac", *map(sa.column, columns)).insert().from_select(columns, found))


def downgrade() -> None:
    op.drop_table("network_rbac")
    op.drop_column("networks", "external_restricted")
