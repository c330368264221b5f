"""Servers that are shelved"""

from __future__ import annotations

from functools import partial

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def _text(length: int | None = None) -> sa.types.TypeEngine[str]:
    plain = sa.Text if length is None else partial(sa.String, length)
    return plain().with_variant(plain(collation="C"), "postgresql")


def upgrade() -> None:
    op.add_column("servers", sa.Column("shelved_image_id", _text(36)))
    op.add_column("servers", sa.Column("shelved_at", sa.Float()))
    if op.get_context().dialect.name == "postgresql":  # SQLite keeps a text of any length
        op.alter_column("servers", "vm_state", type_=_text(32), existing_type=_text(16))


def downgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        op.alter_column("servers", "vm_state", type_=_text(16), existing_type=_text(32))
    op.drop_column("servers", "shelved_at")
    op.drop_column("servers", "shelved_image_id")
