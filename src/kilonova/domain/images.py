"""Images: formats, states, and the record that the store keeps (Glance's names and values)."""

from __future__ import annotations

from enum import StrEnum

import msgspec

DISK_FORMATS = ("raw", "qcow2", "iso", "ami", "ari", "aki", "vhd", "vhdx", "vmdk", "vdi", "ploop")
CONTAINER_FORMATS = ("bare", "ovf", "ova", "docker", "ami", "ari", "aki", "compressed")
PACKED_CONTAINERS = ("ova", "docker", "compressed")
"""Containers that wrap the disk: their first byte is not the disk's, and no server boots from them."""

VISIBILITIES = ("public", "private", "shared", "community")
MEMBER_STATUSES = ("pending", "accepted", "rejected")

HASH_ALGORITHM = "sha512"


class ImageStatus(StrEnum):
    """Where an image is in its life.

        queued ⇄ saving → active ⇄ deactivated
           └───────┴────────┴─────────┴→ pending_delete → deleted

    An upload that fails goes back to queued. A deleted image keeps its row, so that its id is never
    given to other bytes: hosts cache by id.
    """

    QUEUED = "queued"
    SAVING = "saving"
    ACTIVE = "active"
    DEACTIVATED = "deactivated"
    PENDING_DELETE = "pending_delete"
    DELETED = "deleted"


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """One image. Sizes in bytes, ``min_disk`` GiB, ``min_ram`` MiB, times epoch seconds, hashes in hex."""

    id: str
    status: ImageStatus = ImageStatus.QUEUED
    name: str | None = None
    owner: str | None = None
    visibility: str = "shared"
    disk_format: str | None = None
    container_format: str | None = None
    min_disk: int = 0
    min_ram: int = 0
    protected: bool = False
    os_hidden: bool = False
    size: int | None = None
    virtual_size: int | None = None
    checksum: str | None = None
    os_hash_algo: str | None = None
    os_hash_value: str | None = None
    store: str | None = None
    """Which store keeps the bytes; None: that of files."""
    tree_hash: str | None = None
    created_at: float = 0.0
    updated_at: float = 0.0
    properties: dict[str, str] = {}
    tags: list[str] = []

    @property
    def has_data(self) -> bool:
        """One that only lists snapshots of volumes is active without."""
        return self.status in (ImageStatus.ACTIVE, ImageStatus.DEACTIVATED) and self.os_hash_value is not None


class ImageData(msgspec.Struct, frozen=True, kw_only=True):
    """What an upload found out about the bytes: md5 as ``checksum``, sha512 as ``os_hash_value``, and
    ``tree_hash`` of disk_image/tree_hash.py."""

    size: int
    virtual_size: int
    checksum: str
    os_hash_value: str
    tree_hash: str


class ImageMember(msgspec.Struct, frozen=True, kw_only=True):
    """A project that a shared image is shared with."""

    image_id: str
    member_id: str
    status: str = "pending"
    created_at: float
    updated_at: float


class ImageViewer(msgspec.Struct, frozen=True, kw_only=True):
    """Whose eyes a query has: an admin sees every image, a project its own and what is offered to it."""

    project_id: str | None
    is_admin: bool = False


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """``field operator value``: eq, neq, lt, lte, gt, gte; ``in`` with a list."""

    field: str
    operator: str = "eq"
    value: str | int | float | bool | list[str]


class SortKey(msgspec.Struct, frozen=True, kw_only=True):
    field: str
    descending: bool = True


class ImageQuery(msgspec.Struct, frozen=True, kw_only=True):
    """One page of a list of images."""

    visibility: str | None = None
    """None: what the viewer works with (no community images of others); ``all``: those too."""
    member_status: str = "accepted"
    """Of the images shared with the viewer, those with this answer of its; ``all``: any."""
    os_hidden: bool = False
    comparisons: list[Comparison] = []
    properties: dict[str, str] = {}
    tags: list[str] = []
    sort: list[SortKey] = []
    marker: str | None = None
    limit: int = 25
