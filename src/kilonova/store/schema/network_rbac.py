"""With which projects a network or a group is shared, and how (Neutron's RBAC policies)."""

from __future__ import annotations

import sqlalchemy as sa

from kilonova.store.schema.base import metadata, text, uuid_column


def _policies(name: str, objects: str) -> sa.Table:
    return sa.Table(
        name,
        metadata,
        uuid_column("id", primary_key=True),
        sa.Column("project_id", text(64), nullable=False, index=True),
        uuid_column("object_id", sa.ForeignKey(f"{objects}.id", ondelete="CASCADE"), nullable=False),
        sa.Column("action", text(32), nullable=False),
        # A project's id; "*": everybody.
        sa.Column("target_tenant", text(64), nullable=False, index=True),
        sa.UniqueConstraint("object_id", "action", "target_tenant"),
    )


network_rbac = _policies("network_rbac", "networks")
security_group_rbac = _policies("security_group_rbac", "security_groups")
address_group_rbac = _policies("address_group_rbac", "address_groups")
