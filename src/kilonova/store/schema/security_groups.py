"""Security groups, their rules, and the ports that are in them (Neutron's resources)."""

from __future__ import annotations

import sqlalchemy as sa

from kilonova.store.schema.base import Json, metadata, text, uuid_column

security_groups = sa.Table(
    "security_groups",
    metadata,
    uuid_column("id", primary_key=True),
    sa.Column("project_id", text(64), nullable=False),
    sa.Column("name", text(255), nullable=False),
    sa.Column("description", text(255), nullable=False),
    sa.Column("revision_number", sa.Integer, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("updated_at", sa.Float, nullable=False),
    sa.Index(None, "project_id", "name"),
)

# The primary key is what makes a project's default group only once.
default_security_groups = sa.Table(
    "default_security_groups",
    metadata,
    sa.Column("project_id", text(64), primary_key=True),
    uuid_column("security_group_id", sa.ForeignKey("security_groups.id"), nullable=False, unique=True),
)

security_group_rules = sa.Table(
    "security_group_rules",
    metadata,
    uuid_column("id", primary_key=True),
    uuid_column(
        "security_group_id",
        sa.ForeignKey("security_groups.id", ondelete="CASCADE"),
        nullable=False,
        index=True,
    ),
    sa.Column("project_id", text(64), nullable=False, index=True),
    sa.Column("direction", text(16), nullable=False),
    sa.Column("ethertype", text(16), nullable=False),
    sa.Column("protocol", text(40)),
    sa.Column("port_range_min", sa.Integer),
    sa.Column("port_range_max", sa.Integer),
    sa.Column("remote_ip_prefix", text(64)),
    uuid_column("remote_group_id", sa.ForeignKey("security_groups.id", ondelete="CASCADE"), index=True),
    # No foreign key: who writes a rule locks the address group. remote_ip_prefix is nobody's address then: a
    # release that knows no address groups would let everybody pass.
    uuid_column("remote_address_group_id", index=True),
    sa.Column("description", text(255), nullable=False),
    sa.Column("revision_number", sa.Integer, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("updated_at", sa.Float, nullable=False),
)

address_groups = sa.Table(
    "address_groups",
    metadata,
    uuid_column("id", primary_key=True),
    sa.Column("project_id", text(64), nullable=False, index=True),
    sa.Column("name", text(255), nullable=False),
    sa.Column("description", text(255), nullable=False),
    sa.Column("addresses", Json(list[str]), nullable=False),
    sa.Column("revision_number", sa.Integer, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("updated_at", sa.Float, nullable=False),
)

port_security_groups = sa.Table(
    "port_security_groups",
    metadata,
    uuid_column("port_id", sa.ForeignKey("ports.id", ondelete="CASCADE"), primary_key=True),
    uuid_column("security_group_id", sa.ForeignKey("security_groups.id"), primary_key=True, index=True),
    sqlite_with_rowid=False,
)
