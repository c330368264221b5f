"""Where a volume is being moved to, and how its last move ended"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def _text(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    # NULL: it is not being moved. A process of the release before never moves one.
    op.add_column("volumes", sa.Column("new_type_id", _text(36)))
    op.add_column("volumes", sa.Column("new_host", _text(255)))
    op.add_column("volumes", sa.Column("migration_status", _text(32)))


def downgrade() -> None:
    op.drop_column("volumes", "migration_status")
    op.drop_column("volumes", "new_host")
    op.drop_column("volumes", "new_type_id")
