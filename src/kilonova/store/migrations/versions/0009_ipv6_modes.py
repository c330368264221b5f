"""How guests of IPv6 subnets come to their addresses"""

from __future__ import annotations

from functools import partial

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def _text(length: int | None = None) -> sa.types.TypeEngine[str]:
    plain = sa.Text if length is None else partial(sa.String, length)
    return plain().with_variant(plain(collation="C"), "postgresql")


def upgrade() -> None:
    # NULL is what the release before, which knew IPv4 only, goes on to write.
    op.add_column("subnets", sa.Column("ipv6_ra_mode", _text(16)))
    op.add_column("subnets", sa.Column("ipv6_address_mode", _text(16)))


def downgrade() -> None:
    op.drop_column("subnets", "ipv6_address_mode")
    op.drop_column("subnets", "ipv6_ra_mode")
