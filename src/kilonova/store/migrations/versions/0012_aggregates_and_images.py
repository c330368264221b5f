"""Host aggregates; where an image is kept, and the tree hash of its bytes"""

from __future__ import annotations

from functools import partial

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def _text(length: int | None = None) -> sa.types.TypeEngine[str]:
    plain = sa.Text if length is None else partial(sa.String, length)
    return plain().with_variant(plain(collation="C"), "postgresql")


def _serial() -> sa.types.TypeEngine[int]:
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "aggregates",
        sa.Column("id", _serial(), autoincrement=True, nullable=False),
        sa.Column("uuid", _text(36), nullable=False),
        sa.Column("name", _text(255), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("updated_at", sa.Float()),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_aggregates")),
        sa.UniqueConstraint("uuid", name=op.f("uq_aggregates_uuid")),
        sa.UniqueConstraint("name", name=op.f("uq_aggregates_name")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "aggregate_hosts",
        sa.Column("aggregate_id", _serial(), nullable=False),
        sa.Column("host", _text(255), nullable=False),
        _of_aggregate("aggregate_hosts"),
        sa.PrimaryKeyConstraint("aggregate_id", "host", name=op.f("pk_aggregate_hosts")),
    )
    op.create_index(op.f("ix_aggregate_hosts_host"), "aggregate_hosts", ["host"])
    op.create_table(
        "aggregate_metadata",
        sa.Column("aggregate_id", _serial(), nullable=False),
        sa.Column("key", _text(255), nullable=False),
        sa.Column("value", _text(255), nullable=False),
        _of_aggregate("aggregate_metadata"),
        sa.PrimaryKeyConstraint("aggregate_id", "key", name=op.f("pk_aggregate_metadata")),
    )
    # NULL: in none, which is where a release that knows of none leaves its hosts.
    op.add_column("hosts", sa.Column("aggregate_metadata", sa.Text()))
    # NULL: in files, and no tree hash, as the release before goes on to write.
    op.add_column("images", sa.Column("store", _text(16)))
    op.add_column("images", sa.Column("tree_hash", _text(64)))


def _of_aggregate(table: str) -> sa.ForeignKeyConstraint:
    name = op.f(f"fk_{table}_aggregate_id")
    return sa.ForeignKeyConstraint(["aggregate_id"], ["aggregates.id"], name=name, ondelete="CASCADE")


def downgrade() -> None:
    op.drop_column("images", "tree_hash")
    op.drop_column("images", "store")
    op.drop_column("hosts", "aggregate_metadata")
    for table in ("aggregate_metadata", "aggregate_hosts", "aggregates"):
        op.drop_table(table)
