"""Who writes an image while it is being saved"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # NULL: nobody, or a process of the release before, which does not say.
    text = sa.String(64).with_variant(sa.String(64, collation="C"), "postgresql")
    op.add_column("images", sa.Column("saved_by", text))


def downgrade() -> None:
    op.drop_column("images", "saved_by")
