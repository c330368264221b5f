"""With which projects address groups are shared"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

_TABLE = "address_group_rbac"


def _text(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        _TABLE,
        sa.Column("id", _text(36), nullable=False),
        sa.Column("project_id", _text(64), nullable=False),
        sa.Column("object_id", _text(36), nullable=False),
        sa.Column("action", _text(32), nullable=False),
        sa.Column("target_tenant", _text(64), nullable=False),
        sa.ForeignKeyConstraint(
            ["object_id"],
            ["address_groups.id"],
            name=op.f(f"fk_{_TABLE}_object_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f(f"pk_{_TABLE}")),
        sa.UniqueConstraint(
            "object_id",
            "action",
            "target_tenant",
            name=op.f(f"uq_{_TABLE}_object_id_action_target_tenant"),
        ),
    )
    op.create_index(op.f(f"ix_{_TABLE}_project_id"), _TABLE, ["project_id"])
    op.create_index(op.f(f"ix_{_TABLE}_target_tenant"), _TABLE, ["target_tenant"])


def downgrade() -> None:
    op.drop_table(_TABLE)
