"""Security groups"""

from __future__ import annotations

from functools import partial

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def _text(length: int | None = None) -> sa.types.TypeEngine[str]:
    plain = sa.Text if length is None else partial(sa.String, length)
    return plain().with_variant(plain(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "security_groups",
        sa.Column("id", _text(36), nullable=False),
        sa.Column("project_id", _text(64), nullable=False),
        sa.Column("name", _text(255), nullable=False),
        sa.Column("description", _text(255), nullable=False),
        sa.Column("revision_number", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_security_groups")),
    )
    op.create_index(op.f("ix_security_groups_project_id_name"), "security_groups", ["project_id", "name"])
    op.create_table(
        "default_security_groups",
        sa.Column("project_id", _text(64), nullable=False),
        sa.Column("security_group_id", _text(36), nullable=False),
        sa.ForeignKeyConstraint(
            ["security_group_id"],
            ["security_groups.id"],
            name=op.f("fk_default_security_groups_security_group_id"),
        ),
        sa.PrimaryKeyConstraint("project_id", name=op.f("pk_default_security_groups")),
        sa.UniqueConstraint("security_group_id", name=op.f("uq_default_security_groups_security_group_id")),
    )
    _rules()
    op.create_table(
        "port_security_groups",
        sa.Column("port_id", _text(36), nullable=False),
        sa.Column("security_group_id", _text(36), nullable=False),
        sa.ForeignKeyConstraint(
            ["port_id"], ["ports.id"], name=op.f("fk_port_security_groups_port_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["security_group_id"],
            ["security_groups.id"],
            name=op.f("fk_port_security_groups_security_group_id"),
        ),
        sa.PrimaryKeyConstraint("port_id", "security_group_id", name=op.f("pk_port_security_groups")),
        sqlite_with_rowid=False,
    )
    op.create_index(
        op.f("ix_port_security_groups_security_group_id"), "port_security_groups", ["security_group_id"]
    )
    # NULL is what the release before goes on to write.
    op.add_column("ports", sa.Column("has_groups", sa.Boolean()))
    op.add_column("hosts", sa.Column("follows_network", sa.Boolean()))
    op.create_index("ix_hosts_follows_network", "hosts", ["follows_network"])


def _rules() -> None:
    op.create_table(
        "security_group_rules",
        sa.Column("id", _text(36), nullable=False),
        sa.Column("security_group_id", _text(36), nullable=False),
        sa.Column("project_id", _text(64), nullable=False),
        sa.Column("direction", _text(16), nullable=False),
        sa.Column("ethertype", _text(16), nullable=False),
        sa.Column("protocol", _text(40)),
        sa.Column("port_range_min", sa.Integer()),
        sa.Column("port_range_max", sa.Integer()),
        sa.Column("remote_ip_prefix", _text(64)),
        sa.Column("remote_group_id", _text(36)),
        sa.Column("description", _text(255), nullable=False),
        sa.Column("revision_number", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["security_group_id"],
            ["security_groups.id"],
            name=op.f("fk_security_group_rules_security_group_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["remote_group_id"],
            ["security_groups.id"],
            name=op.f("fk_security_group_rules_remote_group_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_security_group_rules")),
    )
    for column in ("security_group_id", "project_id", "remote_group_id"):
        op.create_index(op.f(f"ix_security_group_rules_{column}"), "security_group_rules", [column])


def downgrade() -> None:
    op.drop_index("ix_hosts_follows_network", table_name="hosts")
    op.drop_column("hosts", "follows_network")
    op.drop_column("ports", "has_groups")
    for table in (
        "port_security_groups",
        "security_group_rules",
        "default_security_groups",
        "security_groups",
    ):
        op.drop_table(table)
