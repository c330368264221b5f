"""Service types of subnets"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # NULL: none, or written by a release that knows none.
    op.add_column("subnets", sa.Column("service_types", sa.Text()))


def downgrade() -> None:
    op.drop_column("subnets", "service_types")
