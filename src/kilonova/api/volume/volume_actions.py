"""What is done to a volume by POST /volumes/{id}/action: one key, and what belongs to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from kilonova.api.http import Reply, Request, Route, Version
from kilonova.api.volume import attaching, inputs, policy
from kilonova.api.volume.compute_use import refuse_if_used
from kilonova.api.volume.state import VolumeAPI
from kilonova.domain.clock import iso8601_micro
from kilonova.domain.errors import BadRequest
from kilonova.domain.volumes import VolumeStatus
from kilonova.store import operations, volume_attachments, volume_types
from kilonova.store import volumes as store
from kilonova.volume.builtin import attachments as attachment_rules
from kilonova.volume.builtin import moves
from kilonova.volume.builtin import volumes as rules


class Nothing(msgspec.Struct, frozen=True):
    """``{}``; what else clients send there has no meaning."""


class Extend(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    new_size: Annotated[int, Meta(ge=1, le=inputs.MAX_INT)]


class ResetStatus(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    status: str | None = None
    attach_status: str | None = None
    migration_status: str | None = None


class Bootable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    bootable: bool


class Readonly(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    readonly: bool


class Retype(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    new_type: Annotated[str, Meta(min_length=1)]
    migration_policy: str | None = None


class Migrate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    host: Annotated[str, Meta(min_length=1, max_length=255)] | None = None
    cluster: str | None = None
    force_host_copy: bool = False
    lock_volume: bool = False


class Upload(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    image_name: Annotated[str, Meta(min_length=1, max_length=255)]
    force: bool = False
    container_format: str | None = None
    disk_format: str | None = None
    visibility: str | None = None
    protected: bool | None = None


class Revert(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    snapshot_id: str


class Reimage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    image_id: str
    reimage_reserved: bool = False


class ImageMetadata(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    metadata: dict[str, str]


class ImageKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    key: str


Do = Callable[[VolumeAPI, Request, str, Any], Reply]


def extend(api: VolumeAPI, request: Request, volume_id: str, asked: Extend) -> Reply:
    with api.db.write() as conn:
        online = request.at_least(3, 42)
        rules.extend(conn, api.parts, request.context, volume_id, asked.new_size, online)
    return Reply(202)


def reset_status(api: VolumeAPI, request: Request, volume_id: str, asked: ResetStatus) -> Reply:
    policy.require_admin(request.context, "volume_extension:volume_admin_actions:reset_status")
    if asked.status is None and asked.attach_status is None and asked.migration_status is None:
        raise BadRequest("Invalid input received: status, attach_status or migration_status must be given.")
    if asked.status is not None and asked.status not in set(VolumeStatus):
        raise BadRequest(f"Invalid input received: there is no status '{asked.status}' of volumes.")
    if asked.attach_status not in (None, "attached", "detached"):
        raise BadRequest("Invalid input received: attach_status must be attached or detached.")
    if asked.migration_status not in (None, "none"):
        raise BadRequest("Invalid input received: only none can be set as migration_status.")
    with api.db.write() as conn:
        operations.lock_open(conn, volume_id)
        rules.find(conn, request.context, volume_id, for_update=True)
        held = volume_attachments.of_volume(conn, volume_id)
        if asked.attach_status == "attached" and not held:
            raise BadRequest(f"Invalid volume: Volume {volume_id} has no attachment: it is detached.")
        if asked.attach_status == "detached":
            for attachment in held:
                refuse_if_used(conn, request.context, attachment)
                attachment_rules.release(conn, api.parts, attachment.id, request_id=request.request_id)
        if asked.migration_status is not None:
            moves.forget(conn, rules.find(conn, request.context, volume_id))
        if asked.status is not None:
            rules.reset_status(conn, api.parts, request.context, volume_id, asked.status)
    return Reply(202)


def set_bootable(api: VolumeAPI, request: Request, volume_id: str, asked: Bootable) -> Reply:
    with api.db.write() as conn:
        rules.find(conn, request.context, volume_id, for_update=True)
        store.change(conn, volume_id, bootable=asked.bootable)
    return Reply(200)


def set_readonly(api: VolumeAPI, request: Request, volume_id: str, asked: Readonly) -> Reply:
    with api.db.write() as conn:
        volume = rules.find(conn, request.context, volume_id, for_update=True)
        if volume.status != VolumeStatus.AVAILABLE:
            raise BadRequest(
                f"Invalid volume: Volume {volume_id} status must be available to update readonly flag, but "
                f"current status is: {volume.status}."
            )
        store.change(conn, volume_id, readonly=asked.readonly)
    return Reply(202)


def retype(api: VolumeAPI, request: Request, volume_id: str, asked: Retype) -> Reply:
    if asked.migration_policy not in (None, "never", "on-demand"):
        raise BadRequest("Invalid input received: migration_policy must be never or on-demand.")
    policy_of_moves = asked.migration_policy or moves.NEVER
    with api.db.write() as conn:
        moves.retype(conn, api.parts, request.context, volume_id, asked.new_type, policy_of_moves)
    return Reply(202)


def migrate(api: VolumeAPI, request: Request, volume_id: str, asked: Migrate) -> Reply:
    """Always by a copy, which nothing interrupts: ``force_host_copy`` and ``lock_volume`` change nothing."""
    policy.require_admin(request.context, "volume_extension:volume_admin_actions:migrate_volume")
    if asked.cluster is not None:
        raise BadRequest("Invalid input received: this service has no clusters.")
    if asked.host is None:
        raise BadRequest("Invalid input received: host must be given.")
    with api.db.write() as conn:
        moves.migrate(conn, api.parts, request.context, volume_id, asked.host)
    return Reply(202)


def force_delete(api: VolumeAPI, request: Request, volume_id: str, _asked: Nothing) -> Reply:
    policy.require_admin(request.context, "volume_extension:volume_admin_actions:force_delete")
    with api.db.write() as conn:
        rules.delete(conn, api.parts, request.context, volume_id, force=True)
    return Reply(202)


def revert(api: VolumeAPI, request: Request, volume_id: str, asked: Revert) -> Reply:
    with api.db.write() as conn:
        rules.revert(conn, api.parts, request.context, volume_id, asked.snapshot_id)
    return Reply(202)


def reimage(api: VolumeAPI, request: Request, volume_id: str, asked: Reimage) -> Reply:
    if not inputs.is_uuid(asked.image_id):
        raise BadRequest(f"Invalid input received: image_id '{asked.image_id}' is not a UUID.")
    image = api.images.ref(request.context, asked.image_id)
    with api.db.write() as conn:
        volume = rules.find(conn, request.context, volume_id, for_update=True)
        if volume.status == VolumeStatus.RESERVED and not asked.reimage_reserved:
            raise BadRequest(
                f"Invalid volume: Volume {volume_id} is reserved: reimage_reserved says that it is to be all "
                "the same."
            )
        rules.reimage(conn, api.parts, request.context, volume_id, image)
    return Reply(202)


def upload(api: VolumeAPI, request: Request, volume_id: str, asked: Upload) -> Reply:
    """The image is made here, and gets its data from the volume's manager."""
    container, disk = asked.container_format or "bare", asked.disk_format or "raw"
    if (container, disk) != ("bare", "raw"):
        raise BadRequest(
            f"Invalid input received: a volume becomes an image in the formats bare and raw, not {container} "
            f"and {disk}."
        )
    values: dict[str, Any] = {"name": asked.image_name, "container_format": container, "disk_format": disk}
    if request.at_least(3, 1):
        values |= {"visibility": asked.visibility or "private", "protected": bool(asked.protected)}
    with api.db.read() as conn:
        volume = rules.find(conn, request.context, volume_id)
    values |= _properties(volume.image_metadata)
    with api.db.write() as conn:
        image = api.images.create(request.context, values)
        row = rules.upload(conn, api.parts, request.context, volume_id, image.id, asked.force)
        kind = volume_types.get(conn, row.volume_type_id)
    view: dict[str, Any] = {
        "id": volume_id,
        "updated_at": iso8601_micro(row.updated_at),
        "status": row.status,
        "display_description": row.description,
        "size": row.size,
        "volume_type": None if kind is None else {"id": kind.id, "name": kind.name},
        "image_id": image.id,
        "container_format": container,
        "disk_format": disk,
        "image_name": asked.image_name,
    }
    if request.at_least(3, 1):
        view |= {"visibility": values["visibility"], "protected": values["protected"]}
    return Reply(202, {"os-volume_upload_image": view})


_OF_THE_IMAGE = frozenset(
    {"image_id", "image_name", "container_format", "disk_format", "min_disk", "min_ram", "size", "checksum"}
)


def _properties(image_metadata: dict[str, str]) -> dict[str, str]:
    """What the image that it was made of said of the guest."""
    return {
        name: value
        for name, value in image_metadata.items()
        if name not in _OF_THE_IMAGE
        and name.startswith(("hw_", "os_type", "os_distro", "os_version", "os_admin"))
    }


def set_image_metadata(api: VolumeAPI, request: Request, volume_id: str, asked: ImageMetadata) -> Reply:
    inputs.check_metadata(asked.metadata)
    with api.db.write() as conn:
        after = rules.set_metadata(
            conn, request.context, volume_id, lambda old: old | asked.metadata, "image_metadata"
        )
    return Reply(body={"metadata": after})


def show_image_metadata(api: VolumeAPI, request: Request, volume_id: str, _asked: Nothing) -> Reply:
    with api.db.read() as conn:
        return Reply(body={"metadata": rules.find(conn, request.context, volume_id).image_metadata})


def unset_image_metadata(api: VolumeAPI, request: Request, volume_id: str, asked: ImageKey) -> Reply:
    def without(old: dict[str, str]) -> dict[str, str]:
        if asked.key not in old:
            raise BadRequest(f"Metadata item was not found: {asked.key}")
        return {key: value for key, value in old.items() if key != asked.key}

    with api.db.write() as conn:
        rules.set_metadata(conn, request.context, volume_id, without, "image_metadata")
    return Reply(200)


_NOT_OFFERED = {
    "os-migrate_volume_completion": "lets others copy volumes",
    "os-unmanage": "lets go of volumes without deleting them",
    "os-extend_volume_completion": "waits for a hypervisor to extend a volume",
}

ACTIONS: dict[str, tuple[type[msgspec.Struct], Do, Version | None]] = {
    "os-extend": (Extend, extend, None),
    "os-reset_status": (ResetStatus, reset_status, None),
    "os-set_bootable": (Bootable, set_bootable, None),
    "os-update_readonly_flag": (Readonly, set_readonly, None),
    "os-retype": (Retype, retype, None),
    "os-migrate_volume": (Migrate, migrate, None),
    "os-force_delete": (Nothing, force_delete, None),
    "os-volume_upload_image": (Upload, upload, None),
    "os-set_image_metadata": (ImageMetadata, set_image_metadata, None),
    "os-show_image_metadata": (Nothing, show_image_metadata, None),
    "os-unset_image_metadata": (ImageKey, unset_image_metadata, None),
    "revert": (Revert, revert, (3, 40)),
    "os-reimage": (Reimage, reimage, (3, 68)),
    **attaching.ACTIONS,
}


def act(api: VolumeAPI, request: Request, volume_id: str) -> Reply:
    body = inputs.body(request, dict[str, msgspec.Raw])
    if len(body) != 1:
        raise BadRequest("The body must be an object with one key: the action")
    name, raw = next(iter(body.items()))
    if name in _NOT_OFFERED:
        raise BadRequest(f"There is no action {name}: nothing here {_NOT_OFFERED[name]}.")
    kind, do, since = ACTIONS.get(name, (Nothing, None, None))
    if do is None or (since is not None and request.version < since):
        raise BadRequest(f"There is no such action: {name}")
    policy.require_writer(request.context, f"volume:{name}")
    if kind is Nothing:
        return do(api, request, volume_id, Nothing())
    return do(api, request, volume_id, inputs.decode(name, raw, kind))


ROUTES = [Route("POST", "/volumes/{volume_id}/action", act)]
