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

# What groups are made with.
default_security_group_rules = sa.Table(
    "default_security_group_rules",
    metadata,
    uuid_column("id", primary_key=True),
    sa.Column("direction", text(16), nullable=False),
    sa.Column("ethertype", text(16), nullable=False),
    sa.Column("protocol", text(40)),
    sa.Column("port_range_min", sa.Integer),
    sa.Column("port_range_max", sa.Integer),
    sa.Column("remote_ip_prefix", text(64)),
    # "PARENT": the group that gets the rule.
    sa.Column("remote_group_id", text(36)),
    sa.Column("description", text(255), nullable=False),
    sa.Column("used_in_default_sg", sa.Boolean, nullable=False),
    sa.Column("used_in_non_default_sg", sa.Boolean, nullable=False),
)


@sa.event.listens_for(default_security_group_rules, "after_create")
def _first_rules(table: sa.Table, conn: sa.Connection, **_: object) -> None:
    """Neutron's own, for whoever makes all tables at once, as the revision 0022 writes them."""
    first = {"description": "", "used_in_default_sg": True}
    out = first | {"direction": "egress", "remote_group_id": None, "used_in_non_default_sg": True}
    within = first | {"direction": "ingress", "remote_group_id": "PARENT", "used_in_non_default_sg": False}
    rows = [rule | {"ethertype": kind} for rule in (out, within) for kind in ("IPv4", "IPv6")]
    ids = [f"7a9e0c51-3c4e-4d0b-8f57-0c2c3c1c9a0{number}" for number in (1, 2, 3, 4)]
    conn.execute(table.insert(), [{"id": one} | row for one, row in zip(ids, rows, strict=True)])


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
