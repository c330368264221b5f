"""Images in the database. A state changes by compare-and-swap; a deleted image keeps its row and its id."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam as given

from kilonova.domain.clock import now
from kilonova.domain.images import Image, ImageStatus, ImageViewer
from kilonova.store import dialect
from kilonova.store.schema.images import image_members, image_properties, image_tags, images
from kilonova.store.statement import Statement

COLUMNS = [column for column in images.c if column.name not in ("deleted_at", "saved_by")]
_GONE = (ImageStatus.PENDING_DELETE, ImageStatus.DELETED)
LIVE = sa.and_(*(images.c.status != gone for gone in _GONE))


def insert(conn: sa.Connection, image: Image) -> bool:
    """INSERT INTO images …, with its properties and tags; False if the id is or ever was in use."""
    if not dialect.insert_new(conn, images, _columns(image)):
        return False
    _insert_properties(conn, image)
    _insert_tags(conn, image.id, image.tags)
    return True


def get(conn: sa.Connection, viewer: ImageViewer, image_id: str, for_update: bool = False) -> Image | None:
    """The image if it lives and ``viewer`` may see it; properties and tags included.

    ``for_update``: nobody else changes it, its properties, tags or members until the transaction ends.
    """
    row = _get(viewer.is_admin, viewer.project_id is not None, for_update).row(
        conn, {"image": image_id, "viewer": viewer.project_id}
    )
    if row is None:
        return None
    properties = {found.name: found.value for found in _PROPERTIES.rows(conn, {"image": image_id})}
    return _image(row, properties, [found.value for found in _TAGS.rows(conn, {"image": image_id})])


@cache
def _get(is_admin: bool, has_project: bool, for_update: bool) -> Statement:
    """Of a viewer of this kind."""
    viewer: Any = given("viewer") if has_project else None
    query = sa.select(*COLUMNS).where(images.c.id == given("image"), LIVE, _visible(is_admin, viewer, "all"))
    if for_update:
        query = query.with_for_update(of=images, key_share=True)
    return Statement(query)


_PROPERTIES = Statement(sa.select(image_properties).where(image_properties.c.image_id == given("image")))
_TAGS = Statement(
    sa.select(image_tags).where(image_tags.c.image_id == given("image")).order_by(image_tags.c.value)
)


def visible(viewer: ImageViewer, member_status: str = "all") -> sa.ColumnElement[bool]:
    """visibility IN (public, community) OR owner = me OR (shared AND I am a member of it)."""
    return _visible(viewer.is_admin, viewer.project_id, member_status)


def _visible(is_admin: bool, project: Any, member_status: str) -> sa.ColumnElement[bool]:
    """``project``: its id, a bind parameter, or None."""
    if is_admin:
        return sa.true()
    offered = sa.or_(images.c.visibility == "public", images.c.visibility == "community")
    if project is None:
        return offered
    membership = (
        sa.select(sa.literal(1))
        .where(image_members.c.image_id == images.c.id, image_members.c.member_id == project)
        .where(sa.true() if member_status == "all" else image_members.c.status == member_status)
    )
    shared = sa.and_(images.c.visibility == "shared", membership.exists())
    return sa.or_(offered, images.c.owner == project, shared)


def load(conn: sa.Connection, rows: Sequence[sa.Row[Any]]) -> list[Image]:
    """Rows of COLUMNS as images: one more query for all properties, one for all tags."""
    ids = [row.id for row in rows]
    properties: dict[str, dict[str, str]] = {image_id: {} for image_id in ids}
    tags: dict[str, list[str]] = {image_id: [] for image_id in ids}
    if ids:
        of_these = image_properties.c.image_id.in_(ids)
        for row in conn.execute(sa.select(image_properties).where(of_these)):
            properties[row.image_id][row.name] = row.value
        chosen = sa.select(image_tags).where(image_tags.c.image_id.in_(ids)).order_by(image_tags.c.value)
        for row in conn.execute(chosen):
            tags[row.image_id].append(row.value)
    return [_image(row, properties[row.id], tags[row.id]) for row in rows]


def update(conn: sa.Connection, before: Image, after: Image) -> None:
    """Write what of ``after`` differs from ``before``: both read and written in one transaction."""
    conn.execute(images.update().where(images.c.id == after.id).values(_columns(after)))
    if before.properties != after.properties:
        conn.execute(image_properties.delete().where(image_properties.c.image_id == after.id))
        _insert_properties(conn, after)
    if before.tags != after.tags:
        conn.execute(image_tags.delete().where(image_tags.c.image_id == after.id))
        _insert_tags(conn, after.id, after.tags)


def change_status(
    conn: sa.Connection, image_id: str, found: Iterable[ImageStatus], to: ImageStatus, **values: Any
) -> bool:
    """UPDATE images SET status = to, … WHERE id = … AND status IN (found); False if it was not."""
    query = images.update().where(images.c.id == image_id, images.c.status.in_(list(found)))
    return conn.execute(query.values(status=to, updated_at=now(), **values)).rowcount == 1


def begin_saving(conn: sa.Connection, image_id: str, token: str) -> bool:
    """Of an image that is queued; False if it is not."""
    return change_status(conn, image_id, [ImageStatus.QUEUED], ImageStatus.SAVING, saved_by=token)


def end_saving(conn: sa.Connection, image_id: str, token: str, to: ImageStatus, **values: Any) -> bool:
    """If it is still saving, and by who has that token; False if not."""
    query = images.update().where(
        images.c.id == image_id, images.c.status == ImageStatus.SAVING, images.c.saved_by == token
    )
    return conn.execute(query.values(status=to, updated_at=now(), **values)).rowcount == 1


def take_over(conn: sa.Connection, image_id: str, before: str | None, token: str) -> bool:
    """Its upload was cut off: whoever it was of cannot end it any more. False if it is not as it was."""
    query = images.update().where(
        images.c.id == image_id,
        images.c.status == ImageStatus.SAVING,
        images.c.saved_by.is_not_distinct_from(before),
    )
    return conn.execute(query.values(saved_by=token)).rowcount == 1


def saver(conn: sa.Connection, image_id: str) -> str | None:
    """The token of who wrote its bytes last, also if it was deleted meanwhile."""
    query = sa.select(images.c.saved_by).where(images.c.id == image_id)
    found: str | None = conn.execute(query).scalar_one_or_none()
    return found


def is_saving(conn: sa.Connection, image_id: str, token: str) -> bool:
    """Whether its bytes are to come, from who has that token."""
    query = sa.select(images.c.id).where(
        images.c.id == image_id, images.c.status == ImageStatus.SAVING, images.c.saved_by == token
    )
    return conn.execute(query).first() is not None


def saving(conn: sa.Connection) -> dict[str, str | None]:
    """Image → the token of who writes its bytes."""
    query = sa.select(images.c.id, images.c.saved_by).where(images.c.status == ImageStatus.SAVING)
    return {row.id: row.saved_by for row in conn.execute(query)}


def mark_deleted(conn: sa.Connection, image_id: str) -> bool:
    """The end of an image that is pending_delete and whose bytes are gone; False if it is not.

    Only the row is left, to keep the id taken.
    """
    dying = [ImageStatus.PENDING_DELETE]
    if not change_status(conn, image_id, dying, ImageStatus.DELETED, deleted_at=now()):
        return False
    for table in (image_properties, image_tags, image_members):
        conn.execute(table.delete().where(table.c.image_id == image_id))
    return True


def give_up(conn: sa.Connection, image_id: str) -> None:
    """Of an image that was to be made and will not be: it is gone, or goes when who writes its bytes ends.
    One that has its bytes stays."""
    writing = [ImageStatus.SAVING]
    if change_status(conn, image_id, [ImageStatus.QUEUED], ImageStatus.PENDING_DELETE):
        mark_deleted(conn, image_id)
    else:
        change_status(conn, image_id, writing, ImageStatus.PENDING_DELETE)


def activate_empty(conn: sa.Connection, image_id: str) -> None:
    """Of an image that will never have data: its properties say where the disks are."""
    change_status(conn, image_id, [ImageStatus.QUEUED], ImageStatus.ACTIVE, size=0)


def backups(conn: sa.Connection, owner: str, server_id: str, backup_type: str) -> list[str]:
    """Images that a project has of backups of this kind of a server, newest first. Protected ones are none
    that could make room."""
    wanted = {"instance_uuid": server_id, "image_type": "backup", "backup_type": backup_type}
    query = sa.select(images.c.id).where(
        images.c.owner == owner, images.c.status == ImageStatus.ACTIVE, images.c.protected.is_(False)
    )
    for name, value in wanted.items():
        query = query.where(
            sa.exists().where(
                image_properties.c.image_id == images.c.id,
                image_properties.c.name == name,
                image_properties.c.value == value,
            )
        )
    return list(conn.execute(query.order_by(images.c.created_at.desc(), images.c.id)).scalars())


def in_status(conn: sa.Connection, status: ImageStatus) -> list[str]:
    """SELECT id FROM images WHERE status = …."""
    return list(conn.execute(sa.select(images.c.id).where(images.c.status == status)).scalars())


def _image(row: sa.Row[Any], properties: dict[str, str], tags: list[str]) -> Image:
    fields = row._asdict()
    fields["status"] = ImageStatus(fields["status"])
    return Image(**fields, properties=properties, tags=tags)


def _columns(image: Image) -> dict[str, Any]:
    return {column.name: getattr(image, column.name) for column in COLUMNS}


def _insert_properties(conn: sa.Connection, image: Image) -> None:
    rows = [{"image_id": image.id, "name": name, "value": value} for name, value in image.properties.items()]
    if rows:
        conn.execute(image_properties.insert(), rows)


def _insert_tags(conn: sa.Connection, image_id: str, tags: Iterable[str]) -> None:
    rows = [{"image_id": image_id, "value": tag} for tag in dict.fromkeys(tags)]
    if rows:
        conn.execute(image_tags.insert(), rows)
