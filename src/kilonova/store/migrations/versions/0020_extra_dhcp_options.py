"""DHCP options of ports"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # NULL: none, or written by a release that knows none.
    op.add_column("ports", sa.Column("extra_dhcp_opts", sa.Text()))


def downgrade() -> None:
    op.drop_column("ports", "extra_dhcp_opts")
