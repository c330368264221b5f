"""Routers that hosts cannot make"""

from __future__ import annotations

from functools import partial

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def _text(length: int | None = None) -> sa.types.TypeEngine[str]:
    plain = sa.Text if length is None else partial(sa.String, length)
    return plain().with_variant(plain(collation="C"), "postgresql")


def upgrade() -> None:
    # NULL: it makes all of them, or is of a release that says nothing of it.
    op.add_column("hosts", sa.Column("failed_routers", sa.Text()))


def downgrade() -> None:
    op.drop_column("hosts", "failed_routers")
