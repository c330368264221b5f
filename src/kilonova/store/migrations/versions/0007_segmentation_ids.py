"""Each network's VXLAN identifier, and where hosts take tunnels"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # NULL is what the release before goes on to write.
    op.add_column("networks", sa.Column("segmentation_id", sa.Integer()))
    op.execute("""
        UPDATE networks SET segmentation_id = numbered.number
        FROM (SELECT id, row_number() OVER (ORDER BY created_at, id) AS number FROM networks) AS numbered
        WHERE numbered.id = networks.id
    """)
    op.create_index(op.f("ix_networks_segmentation_id"), "networks", ["segmentation_id"], unique=True)
    op.create_index(op.f("ix_ports_network_id_host"), "ports", ["network_id", "host"])
    op.add_column(
        "hosts",
        sa.Column("tunnel_address", sa.String(64).with_variant(sa.String(64, collation="C"), "postgresql")),
    )


def downgrade() -> None:
    op.drop_column("hosts", "tunnel_address")
    op.drop_index("ix_ports_network_id_host", table_name="ports")
    op.drop_index("ix_networks_segmentation_id", table_name="networks")
    op.drop_column("networks", "segmentation_id")
