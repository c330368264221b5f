"""Address groups"""

from __future__ import annotations

from functools import partial

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def _text(length: int | None = None) -> sa.types.TypeEngine[str]:
    plain = sa.Text if length is None else partial(sa.String, length)
    return plain().with_variant(plain(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "address_groups",
        sa.Column("id", _text(36), nullable=False),
        sa.Column("project_id", _text(64), nullable=False),
        sa.Column("name", _text(255), nullable=False),
        sa.Column("description", _text(255), nullable=False),
        sa.Column("addresses", sa.Text(), nullable=False),
        sa.Column("revision_number", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_address_groups")),
    )
    op.create_index(op.f("ix_address_groups_project_id"), "address_groups", ["project_id"])
    # NULL: the rule names none.
    op.add_column("security_group_rules", sa.Column("remote_address_group_id", _text(36)))
    op.create_index(
        op.f("ix_security_group_rules_remote_address_group_id"),
        "security_group_rules",
        ["remote_address_group_id"],
    )


def downgrade() -> None:
    op.drop_index(op.f("ix_security_group_rules_remote_address_group_id"), table_name="security_group_rules")
    op.drop_column("security_group_rules", "remote_address_group_id")
    op.drop_table("address_groups")
