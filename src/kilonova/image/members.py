"""Sharing: the owner of a shared image adds projects as members; each member accepts or rejects it."""

from __future__ import annotations

from kilonova.domain.clock import now
from kilonova.domain.context import RequestContext
from kilonova.domain.errors import BadRequest, Conflict, Forbidden, NotFound, TooLarge
from kilonova.domain.images import MEMBER_STATUSES, Image, ImageMember
from kilonova.image import access
from kilonova.image.attributes import MAX_MEMBERS
from kilonova.store import image_members
from kilonova.store import images as rows
from kilonova.store.database import Database


class Members:
    """The members of images. Every operation needs an image that the caller sees and that is shared."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def add(self, context: RequestContext, image_id: str, member_id: str) -> ImageMember:
        with self._db.write() as conn:
            image = _shared(rows.get(conn, access.viewer(context), image_id, for_update=True), image_id)
            access.check_modify(context, image, "add_member")
            if image_members.count(conn, image_id) >= MAX_MEMBERS:
                raise TooLarge(f"Image {image_id} has {MAX_MEMBERS} members, the most it can have.")
            time = now()
            member = ImageMember(image_id=image_id, member_id=member_id, created_at=time, updated_at=time)
            if not image_members.insert(conn, member):
                raise Conflict(f"Member {member_id} is duplicated for image {image_id}")
            return member

    def list(self, context: RequestContext, image_id: str) -> list[ImageMember]:
        """All of them for the owner, only itself for a member."""
        with self._db.read() as conn:
            image = _shared(rows.get(conn, access.viewer(context), image_id), image_id)
            found = image_members.of_image(conn, image_id)
        if access.owns(context, image):
            return found
        return [member for member in found if member.member_id == context.project_id]

    def show(self, context: RequestContext, image_id: str, member_id: str) -> ImageMember:
        for member in self.list(context, image_id):
            if member.member_id == member_id:
                return member
        raise _no_member(image_id, member_id)

    def answer(self, context: RequestContext, image_id: str, member_id: str, status: str) -> ImageMember:
        """Set what the member thinks of the offer: only the member itself may (and an admin)."""
        if status not in MEMBER_STATUSES:
            raise BadRequest(f"Incorrect request: Status must be one of {', '.join(MEMBER_STATUSES)}")
        with self._db.write() as conn:
            image = _shared(rows.get(conn, access.viewer(context), image_id), image_id)
            if not context.is_admin and (not context.may_write or image.owner == context.project_id):
                raise Forbidden(f"Not allowed to update members for image {image_id}.")
            if not context.is_admin and member_id != context.project_id:
                raise _no_member(image_id, member_id)
            if not image_members.set_status(conn, image_id, member_id, status):
                raise _no_member(image_id, member_id)
            member = image_members.get(conn, image_id, member_id)
        assert member is not None
        return member

    def remove(self, context: RequestContext, image_id: str, member_id: str) -> None:
        with self._db.write() as conn:
            image = _shared(rows.get(conn, access.viewer(context), image_id), image_id)
            access.check_modify(context, image, "delete_member")
            if not image_members.delete(conn, image_id, member_id):
                raise _no_member(image_id, member_id)


def _shared(image: Image | None, image_id: str) -> Image:
    if image is None:
        raise access.missing(image_id)
    access.check_shared(image)
    return image


def _no_member(image_id: str, member_id: str) -> NotFound:
    return NotFound(f"{member_id} not found in the member list of the image {image_id}.")
