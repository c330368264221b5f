"""Who may do what with an image: Glance's default policy, in plain functions.

The role ``service`` is ours: it shows and downloads every image, gives snapshots and backups their bytes, and
gives no other right.

What a caller can't see is NotFound; what it sees and may not do is Forbidden.
"""

from __future__ import annotations

from kilonova.domain.context import RequestContext
from kilonova.domain.errors import Forbidden, NotFound
from kilonova.domain.images import Image, ImageStatus, ImageViewer


def viewer(context: RequestContext) -> ImageViewer:
    return ImageViewer(project_id=context.project_id, is_admin=context.is_admin)


def reader(context: RequestContext) -> ImageViewer:
    """Of one image, to read it: services too see every one."""
    return ImageViewer(project_id=context.project_id, is_admin=context.is_admin or context.is_service)


def owns(context: RequestContext, image: Image) -> bool:
    """Admins count as owners of everything."""
    return context.is_admin or (context.project_id is not None and image.owner == context.project_id)


def check_create(context: RequestContext, image: Image) -> None:
    if context.is_admin:
        return
    if not context.may_write or context.project_id is None:
        raise Forbidden("You are not authorized to complete add_image action.")
    if image.owner != context.project_id:
        raise Forbidden(f"You are not permitted to create images owned by '{image.owner}'.")
    check_visibility(context, image.visibility)


def check_modify(context: RequestContext, image: Image, action: str = "modify_image") -> None:
    if not owns(context, image) or not context.may_write:
        raise Forbidden(f"You are not authorized to complete {action} action.")


def check_visibility(context: RequestContext, visibility: str) -> None:
    if visibility == "public" and not context.is_admin:
        raise Forbidden("You are not authorized to complete publicize_image action.")


def check_download(context: RequestContext, image: Image) -> None:
    if context.is_service:  # a build was accepted with it
        return
    if not context.may_write:
        raise Forbidden("You are not authorized to complete download_image action.")
    if image.status == ImageStatus.DEACTIVATED and not context.is_admin:
        raise Forbidden("The requested image has been deactivated. Image data download is forbidden.")


def check_take(context: RequestContext) -> None:
    """What is in Ceph is of all projects: which of it is the image's, only hosts know."""
    if not context.is_service:
        raise Forbidden("You are not authorized to complete add_image_location action.")


def check_disk(image: Image, name: str) -> None:
    """A host's word is not enough: one without a right in Ceph would have any disk by its name. The system
    disk of the server that the image is of is called as Nova calls it (virt/libvirt/disk/rbd.py)."""
    server_id = image.properties.get("instance_uuid")
    if not server_id or name != f"{server_id}_disk":
        raise Forbidden(f"{name} is not the disk of the server that image {image.id} is of.")


def check_upload(context: RequestContext, image: Image) -> None:
    """A service gives the bytes of images that were made for what hosts take of servers, and of no others."""
    if context.is_service and image.properties.get("image_type") in ("snapshot", "backup"):
        return
    check_modify(context, image, "upload_image")


def check_shared(image: Image) -> None:
    if image.visibility != "shared":
        raise Forbidden("Only shared images have members.")


def missing(image_id: str) -> NotFound:
    return NotFound(f"No image found with ID {image_id}")
