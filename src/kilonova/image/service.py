"""The built-in image service: what the API offers, over the database and a store of bytes.

A row and its bytes change in an order that a crash can't break: bytes come before the row says "active", and
go after it says "pending_delete". ``recover()`` ends what a killed process left in between.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO

import msgspec

from kilonova import log
from kilonova.cancel import Cancel
from kilonova.config import Config
from kilonova.domain.clock import now
from kilonova.domain.context import RequestContext
from kilonova.domain.errors import (
    BadRequest,
    Conflict,
    Forbidden,
    KilonovaError,
    NotFound,
    TooLarge,
    Unavailable,
)
from kilonova.domain.images import (
    HASH_ALGORITHM,
    PACKED_CONTAINERS,
    Image,
    ImageQuery,
    ImageStatus,
)
from kilonova.domain.servers import ImageLocation, ImageRef
from kilonova.image import access, attributes, patch
from kilonova.image.base import ImageStore, Stores
from kilonova.image.members import Members
from kilonova.image.places import Places
from kilonova.image.raw import CONVERTED, Converter
from kilonova.image.upload import Source, Upload
from kilonova.image.writers import Writers
from kilonova.store import image_lists, images
from kilonova.store.database import Database

CLONED = ("raw", "iso")
"""Formats whose bytes are those of a disk."""
_READS = 2
"""Disks that are read at once: each keeps the thread of its request. Who comes then asks again."""
_CHECKED = 16 << 20
"""Bytes of such a disk between two looks whether it is still wanted."""
_log = log.get("image")


class _Wanted:
    """A disk that is read for as long as ``check``, which is called now and then, does not raise: whose image
    is deleted must not wait for the end of it."""

    def __init__(self, data: BinaryIO, check: Callable[[], None]) -> None:
        self._data = data
        self._check = check
        self._unchecked = 0

    def read(self, size: int, /) -> bytes:
        block = self._data.read(size)
        self._unchecked += len(block)
        if self._unchecked >= _CHECKED:
            self._check()
            self._unchecked = 0
        return block


class Images:
    """Images of all projects. Every operation says who asks, and sees only what that caller may see."""

    def __init__(
        self,
        db: Database,
        store: ImageStore | Stores,
        config: Config,
        converter: Converter | None = None,
        writers: Writers | None = None,
    ) -> None:
        """``converter``: for a store that keeps disks. ``writers``: of the processes of this machine; without
        it, this one."""
        self._db = db
        self.stores = store if isinstance(store, Stores) else Stores(store)
        self._converter = converter
        self._writers = writers or Writers()
        self._config = config
        self._reads = Places(_READS, 0, 0.0)
        self.members = Members(db)

    def recover(self) -> bool:
        """Call once at start, before the first request, in the first process that serves this folder: as
        resume(), and uploads that do not say whose they are count as cut off, too."""
        with self._db.write() as conn, self._writers.writes() as token:
            for image_id, by in images.saving(conn).items():
                if by is None:
                    images.take_over(conn, image_id, None, token)
        return self.resume()

    def resume(self) -> bool:
        """End what was cut off, by a kill or by a store that was away: an upload is queued again and may be
        repeated, a delete is finished. What others do, here or on other machines, is left to them.

        False: the store did not let go of all of it yet, and this must be called again.
        """
        with self._db.read() as conn:
            saving = images.saving(conn)
        cut = {image_id: by for image_id, by in saving.items() if by and self._writers.is_over(by)}
        left = [image_id for image_id, by in cut.items() if not self._end_cut(image_id, by)]
        self._writers.forget([by for image_id, by in saving.items() if by and image_id in left])
        return self.bury() and not left

    def bury(self) -> bool:
        """What others, in their transactions, have said to be deleted: its bytes go, and then its record.
        Whether all is gone."""
        with self._db.read() as conn:
            dying = images.in_status(conn, ImageStatus.PENDING_DELETE)
        left = [image_id for image_id in dying if not self._bury(image_id)]
        return not left

    def create(self, context: RequestContext, values: Mapping[str, Any]) -> Image:
        """A queued image with these attributes; whatever is no attribute is a property."""
        for name, value in values.items():
            attributes.check_writable(name, creating=True)
            attributes.check_value(name, value)
        known = {name: value for name, value in values.items() if name in attributes.ATTRIBUTES}
        known["id"] = str(uuid.UUID(known["id"])) if "id" in known else str(uuid.uuid4())
        known["tags"] = sorted(set(known.get("tags", [])))
        time = now()
        image = Image(
            **{"owner": context.project_id, **known},
            properties={name: value for name, value in values.items() if name not in known},
            created_at=time,
            updated_at=time,
        )
        attributes.check_limits(image)
        access.check_create(context, image)
        with self._db.write() as conn:
            if not images.insert(conn, image):
                raise Conflict(f"Image ID {image.id} already exists!")
        return image

    def show(self, context: RequestContext, image_id: str) -> Image:
        with self._db.read() as conn:
            image = images.get(conn, access.reader(context), image_id)
        if image is None:
            raise access.missing(image_id)
        return image

    def list(self, context: RequestContext, query: ImageQuery) -> list[Image]:
        with self._db.read() as conn:
            return image_lists.page(conn, access.viewer(context), query)

    def update(self, context: RequestContext, image_id: str, changes: Sequence[patch.Change]) -> Image:
        return self._modify(context, image_id, lambda image: patch.apply(context, image, changes))

    def add_tag(self, context: RequestContext, image_id: str, tag: str) -> None:
        attributes.check_tag(tag)

        def add(image: Image) -> Image:
            return msgspec.structs.replace(image, tags=sorted({*image.tags, tag}))

        self._modify(context, image_id, add)

    def remove_tag(self, context: RequestContext, image_id: str, tag: str) -> None:
        def remove(image: Image) -> Image:
            if tag not in image.tags:
                raise NotFound(f"Image {image_id} has no tag {tag}.")
            return msgspec.structs.replace(image, tags=[other for other in image.tags if other != tag])

        self._modify(context, image_id, remove)

    def deactivate(self, context: RequestContext, image_id: str) -> None:
        """Keep the bytes and give them to nobody but admins. Nothing if it is deactivated already."""
        self._switch(context, image_id, "deactivate", ImageStatus.ACTIVE, ImageStatus.DEACTIVATED)

    def reactivate(self, context: RequestContext, image_id: str) -> None:
        self._switch(context, image_id, "reactivate", ImageStatus.DEACTIVATED, ImageStatus.ACTIVE)

    def delete(self, context: RequestContext, image_id: str) -> None:
        """Gone for everybody when this returns. An upload still running ends with NotFound, and cleans up."""
        with self._db.write(durable=True) as conn:
            image = self._writable(conn, context, image_id, "delete_image")
            if image.protected:
                raise Forbidden(f"Image {image_id} is protected and cannot be deleted.")
            images.change_status(conn, image_id, [image.status], ImageStatus.PENDING_DELETE)
        if image.status != ImageStatus.SAVING:
            self._bury(image_id)
        elif self._converter is not None:
            self._converter.stop(image_id)

    def upload(
        self, context: RequestContext, image_id: str, source: Source, expected: int | None = None
    ) -> None:
        """Take the image's data from ``source``: active when this returns, else queued again, with no bytes
        left. ``expected``: the size in bytes that the client announced.

        Conflict if it has data or another upload runs; UnsupportedMedia if the inspector refuses it.
        """
        if expected is not None and expected > self._config.image.max_size:
            raise TooLarge(f"The incoming image is too large: {expected} bytes are announced")
        with self._saving(context, image_id) as (image, token):
            assert image.disk_format is not None
            assert image.container_format is not None
            self._keep(image, Upload(source, image.disk_format, image.container_format, expected), token)

    def upload_from(self, context: RequestContext, image_id: str, disk: ImageLocation) -> None:
        """As upload(), of a disk in Ceph that a host has taken a snapshot of: it is read where it is, once,
        hashed and inspected on its way into the store. Only for hosts, and of the image's server.

        BadRequest: the store cannot read it there. Unavailable: it reads others now. Conflict also if the
        snapshot was removed meanwhile.
        """
        access.check_take(context)
        store = self.stores.default
        with self._reads.taken(Cancel()), self._saving(context, image_id) as (image, token):
            access.check_disk(image, disk.image)
            if image.container_format != "bare":
                raise BadRequest(f"A disk is no container of format {image.container_format}")
            with store.reading(disk) as data:
                wanted = _Wanted(data, lambda: self._check_saving(image.id, token))
                upload = Upload(wanted, "raw", "bare", None)
                store.put(image.id, upload, self._config.image.max_size)
            self._activate(image.id, token, upload, "raw", store)

    def reset_upload(self, image_id: str) -> None:
        """For who knows that the upload to it was cut off: it may be done again. Unavailable: not yet, for
        somebody is at it, or the store does not let go of what came."""
        with self._db.read() as conn:
            by = images.saver(conn, image_id)
        if by is not None and self._writers.is_over(by) is False:
            raise Unavailable(f"Image {image_id} is being written.")
        if not self._end_cut(image_id, by):
            raise Unavailable(f"The store does not let go yet of what came of image {image_id}.")

    def download(self, context: RequestContext, image_id: str) -> tuple[Image, BinaryIO | None]:
        """The image and its data from the first byte, which the caller closes; None if there is none yet."""
        image = self.show(context, image_id)
        access.check_download(context, image)
        return image, self.stores.open(image_id) if image.has_data else None

    @property
    def shows_direct_urls(self) -> bool:
        return self._config.image.show_image_direct_url

    def location(self, image: Image) -> ImageLocation | None:
        """Where in Ceph the image can be cloned, if it can."""
        store = self.stores.named(image.store)
        if store is None or not image.has_data or image.disk_format not in CLONED:
            return None
        return store.location(image.id)

    def ref(self, context: RequestContext, image_id: str) -> ImageRef:
        """What a host needs to boot the image. BadRequest if it has no disk to boot from now."""
        image = self.show(context, image_id)
        if image.status != ImageStatus.ACTIVE:
            raise BadRequest(f"Image {image_id} is not active.")
        assert image.disk_format is not None
        assert image.size is not None
        if image.container_format in PACKED_CONTAINERS:
            raise BadRequest(
                f"Image {image_id} is unacceptable: no server boots from container format "
                f"{image.container_format}."
            )
        return ImageRef(
            id=image.id,
            name=image.name or "",
            disk_format=image.disk_format,
            container_format=image.container_format or "bare",
            size=image.size,
            virtual_size=image.virtual_size,
            os_hash_value=image.os_hash_value,
            min_disk=image.min_disk,
            min_ram=image.min_ram,
            properties=image.properties,
            location=self.location(image),
            tree_hash=image.tree_hash,
        )

    def _writable(self, conn: Any, context: RequestContext, image_id: str, action: str) -> Image:
        image = images.get(conn, access.viewer(context), image_id, for_update=True)
        if image is None:
            raise access.missing(image_id)
        access.check_modify(context, image, action)
        return image

    def _modify(self, context: RequestContext, image_id: str, change: Callable[[Image], Image]) -> Image:
        with self._db.write() as conn:
            before = self._writable(conn, context, image_id, "modify_image")
            after = change(before)
            attributes.check_limits(after)
            if after == before:
                return before
            after = msgspec.structs.replace(after, updated_at=now())
            images.update(conn, before, after)
        return after

    def _switch(
        self, context: RequestContext, image_id: str, action: str, found: ImageStatus, to: ImageStatus
    ) -> None:
        with self._db.write() as conn:
            image = self._writable(conn, context, image_id, action)
            if image.status not in (found, to):
                raise Forbidden(f"Not allowed to {action} image in status '{image.status}'")
            images.change_status(conn, image_id, [found], to)

    @contextmanager
    def _saving(self, context: RequestContext, image_id: str) -> Iterator[tuple[Image, str]]:
        """In the block its bytes come, under that token; nothing is left of them if it raises."""
        with self._writers.writes() as token:
            image = self._start_saving(context, image_id, token)
            try:
                yield image, token
            except BaseException as error:
                _log.info("upload_failed", image=image_id, reason=str(error))
                self._give_up_saving(image_id, token)
                raise

    def _start_saving(self, context: RequestContext, image_id: str, token: str) -> Image:
        with self._db.write() as conn:
            image = images.get(conn, access.reader(context), image_id, for_update=True)
            if image is None:
                raise access.missing(image_id)
            access.check_upload(context, image)
            if image.status != ImageStatus.QUEUED:
                raise Conflict(f"Image status transition from {image.status} to saving is not allowed")
            missing = [name for name in ("disk_format", "container_format") if not getattr(image, name)]
            if missing:
                raise BadRequest(f"Properties {', '.join(missing)} must be set prior to saving data.")
            images.begin_saving(conn, image_id, token)
        return image

    def _keep(self, image: Image, upload: Upload, token: str) -> None:
        """The image is active with these bytes, or, where the store keeps disks, with the disk in them."""
        store, largest, disk_format = self.stores.default, self._config.image.max_size, image.disk_format
        packed = image.container_format != "bare"
        if self._converter is None or not store.keeps_disks or packed or disk_format not in CONVERTED:
            store.put(image.id, upload, largest)
        else:
            with self._converter.converted(image.id, upload, disk_format, largest) as file:
                upload = Upload(file, "raw", "bare", None)
                store.put(image.id, upload, self._config.image.max_converted_size)
            disk_format = "raw"
        self._activate(image.id, token, upload, disk_format, store)

    def _activate(
        self, image_id: str, token: str, upload: Upload, disk_format: str | None, store: ImageStore
    ) -> None:
        """It is in ``store``, whole."""
        found = msgspec.structs.asdict(upload.data) | {"disk_format": disk_format, "store": store.name}
        with self._db.write(durable=True) as conn:
            if not images.end_saving(
                conn, image_id, token, ImageStatus.ACTIVE, os_hash_algo=HASH_ALGORITHM, **found
            ):
                raise NotFound(f"Image {image_id} was deleted during the upload.")

    def _check_saving(self, image_id: str, token: str) -> None:
        with self._db.read() as conn:
            if not images.is_saving(conn, image_id, token):
                raise NotFound(f"Image {image_id} was deleted during the upload.")

    def _end_cut(self, image_id: str, by: str | None) -> bool:
        """Of an upload that nobody goes on with. It is taken over before a byte goes: whoever it was of, it
        cannot become active any more."""
        with self._writers.writes() as token:
            with self._db.write(durable=True) as conn:
                if not images.take_over(conn, image_id, by, token):
                    return True  # it ended, or another was quicker
            return self._give_up_saving(image_id, token)

    def _give_up_saving(self, image_id: str, token: str) -> bool:
        """Queued again, with no bytes; or gone, if it was deleted meanwhile. False: saving stays, for the
        store did not let go of the bytes. Nothing if the bytes are another's by now."""
        with self._db.read() as conn:
            if images.saver(conn, image_id) != token:
                return True
        if not self._remove_data(image_id):
            return False
        with self._db.write(durable=True) as conn:
            images.end_saving(conn, image_id, token, ImageStatus.QUEUED)
            images.mark_deleted(conn, image_id)
        return True

    def _bury(self, image_id: str) -> bool:
        """The bytes of an image that is pending_delete, then the image itself. Safe to call again; False: not
        yet."""
        if not self._remove_data(image_id):
            return False
        with self._db.write() as conn:
            images.mark_deleted(conn, image_id)
        return True

    def _remove_data(self, image_id: str) -> bool:
        try:
            if self._converter is not None:
                self._converter.forget(image_id)
            self.stores.delete(image_id)
        except KilonovaError as error:
            _log.error("image_data_not_removed", image=image_id, reason=error.message)
            return False
        return True
