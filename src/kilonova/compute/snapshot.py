"""createImage and createBackup: what is on a server's disk becomes the bytes of an image; or, where that is a
volume, an image lists snapshots, which the volume service makes.

take_snapshot, then upload_image. Cut off anywhere it is done again, of a later moment, unless the image has
its bytes already.
"""

from __future__ import annotations

from kilonova.cancel import Cancel
from kilonova.compute.insist import insist
from kilonova.compute.journal import Journal
from kilonova.compute.parts import Parts
from kilonova.compute.server_volumes import until_there
from kilonova.domain.errors import BadRequest, BuildFailed, Forbidden, NotFound
from kilonova.domain.messages import BlockDevices, OperationRef, Work
from kilonova.domain.servers import ImageLocation, PowerState, TaskState
from kilonova.image.base import ImageSink

KINDS = frozenset({"create_image", "create_backup"})


def create_image(parts: Parts, work: Work, journal: Journal, cancel: Cancel) -> PowerState:
    """Do it; the guest's power state, which it leaves as it is."""
    guest = parts.driver.guest(work.server_id)
    if guest is None:
        raise NotFound(f"Instance {work.server_id} has no guest on this host.")
    if "snapshots" in work.payload:
        _await_snapshots(parts, work, journal, cancel)
    else:
        upload(parts, work, journal, cancel, TaskState.IMAGE_PENDING_UPLOAD, TaskState.IMAGE_UPLOADING)
    return guest.power_state


def _await_snapshots(parts: Parts, work: Work, journal: Journal, cancel: Cancel) -> None:
    ref = OperationRef(host=parts.host, operation_id=work.operation_id, epoch=work.epoch)
    with journal.step("snapshot_volumes", shows=TaskState.IMAGE_PENDING_UPLOAD):
        until_there(parts, lambda: journal.ask("await_snapshots", ref, BlockDevices), cancel)


def upload(
    parts: Parts, work: Work, journal: Journal, cancel: Cancel, taking: TaskState, uploading: TaskState
) -> None:
    """The image has its bytes, and nothing else is kept of them here."""
    driver, images, image_id = parts.driver, _sink(parts), str(work.payload["image_id"])
    if not insist(lambda: images.has_data(image_id), work.deadline, cancel, "images_away"):
        with journal.step("take_snapshot", shows=taking, undo=lambda: driver.drop_snapshot(work.server_id)):
            driver.take_snapshot(work.server_id, cancel, work.spec.must_be_in_order)
        with journal.step("upload_image", shows=uploading) as step:
            step.note = _give(parts, images, work, image_id, cancel)
    with journal.step("drop_snapshot"):
        driver.drop_snapshot(work.server_id)


def _give(parts: Parts, images: ImageSink, work: Work, image_id: str, cancel: Cancel) -> str:
    """The image gets what was taken: how. Who is asked again, because an answer was lost, finds that it was
    done."""
    driver, why = parts.driver, "what was taken is in files of the host"

    def read_there(disk: ImageLocation) -> None:
        if not images.has_data(image_id):
            images.upload_from(image_id, disk)

    def upload() -> None:
        if not images.has_data(image_id):
            with driver.open_snapshot(work.server_id, cancel) as data:
                images.upload(image_id, data)

    disk = driver.snapshot_location(work.server_id)
    if disk is not None:
        try:
            insist(lambda: read_there(disk), work.deadline, cancel, "images_away")
            return "in Ceph: the image service reads the disk's snapshot"
        except (BadRequest, Forbidden, NotFound) as error:
            why = error.message
    insist(upload, work.deadline, cancel, "images_away")
    return f"copy: {why}"


def _sink(parts: Parts) -> ImageSink:
    if parts.images is None:
        raise BuildFailed("this host has no way to the image service ([service_user] is not configured)")
    return parts.images
