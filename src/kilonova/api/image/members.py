"""/v2/images/{image_id}/members: the projects a shared image is shared with."""

from __future__ import annotations

import msgspec

from kilonova.api.http import Reply, Request
from kilonova.api.image import views
from kilonova.domain.errors import BadRequest
from kilonova.image.service import Images


class NewMember(msgspec.Struct, frozen=True):
    member: str


class Answer(msgspec.Struct, frozen=True):
    status: str


def index(images: Images, request: Request, image_id: str) -> Reply:
    found = images.members.list(request.context, image_id)
    return Reply(body={"members": [views.member(one) for one in found], "schema": "/v2/schemas/members"})


def create(images: Images, request: Request, image_id: str) -> Reply:
    project = request.json(NewMember).member
    if not project or len(project) > 255 or "\0" in project:
        raise BadRequest("Member must be a project's id of 1 to 255 characters")
    return Reply(body=views.member(images.members.add(request.context, image_id, project)))


def show(images: Images, request: Request, image_id: str, member_id: str) -> Reply:
    return Reply(body=views.member(images.members.show(request.context, image_id, member_id)))


def update(images: Images, request: Request, image_id: str, member_id: str) -> Reply:
    status = request.json(Answer).status
    return Reply(body=views.member(images.members.answer(request.context, image_id, member_id, status)))


def delete(images: Images, request: Request, image_id: str, member_id: str) -> Reply:
    images.members.remove(request.context, image_id, member_id)
    return Reply(204)
