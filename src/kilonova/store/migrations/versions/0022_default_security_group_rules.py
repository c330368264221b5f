"""Rules that security groups are made with"""

from __future__ import annotations

from functools import partial

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

_TABLE = "default_security_group_rules"


def _text(length: int) -> sa.types.TypeEngine[str]:
    plain = partial(sa.String, length)
    return plain().with_variant(plain(collation="C"), "postgresql")


def upgrade() -> None:
    rules = op.create_table(
        _TABLE,
        sa.Column("id", _text(36), nullable=False),
        sa.Column("direction", _text(16), nullable=False),
        sa.Column("ethertype", _text(16), nullable=False),
        sa.Column("protocol", _text(40)),
        sa.Column("port_range_min", sa.Integer()),
        sa.Column("port_range_max", sa.Integer()),
        sa.Column("remote_ip_prefix", _text(64)),
        sa.Column("remote_group_id", _text(36)),
        sa.Column("description", _text(255), nullable=False),
        sa.Column("used_in_default_sg", sa.Boolean(), nullable=False),
        sa.Column("used_in_non_default_sg", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f(f"pk_{_TABLE}")),
    )
    # All goes out; of a project's default group the members come in. What releases without this table do.
    first = {"description": "", "used_in_default_sg": True}
    out = first | {"direction": "egress", "remote_group_id": None, "used_in_non_default_sg": True}
    within = first | {"direction": "ingress", "remote_group_id": "PARENT", "used_in_non_default_sg": False}
    op.bulk_insert(
        rules,
        [
            out | {"id": "7a9e0c51-3c4e-4d0b-8f57-0c2c3c1c9a01", "ethertype": "IPv4"},
            out | {"id": "7a9e0c51-3c4e-4d0b-8f57-0c2c3c1c9a02", "ethertype": "IPv6"},
            within | {"id": "7a9e0c51-3c4e-4d0b-8f57-0c2c3c1c9a03", "ethertype": "IPv4"},
            within | {"id": "7a9e0c51-3c4e-4d0b-8f57-0c2c3c1c9a04", "ethertype": "IPv6"},
        ],
    )


def downgrade() -> None:
    op.drop_table(_TABLE)
