"""The projects that a shared image is shared with."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from msgspec import structs

from kilonova.domain.clock import now
from kilonova.domain.images import ImageMember
from kilonova.store import dialect
from kilonova.store.schema.images import image_members

_own = image_members.c


def insert(conn: sa.Connection, member: ImageMember) -> bool:
    """INSERT INTO image_members …; False if the project is a member already."""
    return dialect.insert_new(conn, image_members, structs.asdict(member))


def get(conn: sa.Connection, image_id: str, member_id: str) -> ImageMember | None:
    """SELECT … WHERE image_id = … AND member_id = …."""
    query = sa.select(image_members).where(_own.image_id == image_id, _own.member_id == member_id)
    row = conn.execute(query).first()
    return None if row is None else _member(row)


def of_image(conn: sa.Connection, image_id: str) -> list[ImageMember]:
    """SELECT … WHERE image_id = … ORDER BY created_at: at most the limit of members."""
    query = sa.select(image_members).where(_own.image_id == image_id)
    return [_member(row) for row in conn.execute(query.order_by(_own.created_at, _own.member_id))]


def count(conn: sa.Connection, image_id: str) -> int:
    query = sa.select(sa.func.count()).select_from(image_members).where(_own.image_id == image_id)
    return conn.execute(query).scalar_one()


def set_status(conn: sa.Connection, image_id: str, member_id: str, status: str) -> bool:
    """UPDATE … SET status = …; False if the project is no member."""
    query = image_members.update().where(_own.image_id == image_id, _own.member_id == member_id)
    return conn.execute(query.values(status=status, updated_at=now())).rowcount == 1


def delete(conn: sa.Connection, image_id: str, member_id: str) -> bool:
    query = image_members.delete().where(_own.image_id == image_id, _own.member_id == member_id)
    return conn.execute(query).rowcount == 1


def _member(row: sa.Row[Any]) -> ImageMember:
    return ImageMember(**row._mapping)
