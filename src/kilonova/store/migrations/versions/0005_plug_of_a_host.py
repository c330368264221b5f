"""How a host joins guests to their networks"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "hosts", sa.Column("plug", sa.String(16).with_variant(sa.String(16, collation="C"), "postgresql"))
    )


def downgrade() -> None:
    op.drop_column("hosts", "plug")
