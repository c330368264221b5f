"""The protocol of a host's disk backend, and how a disk is named to QEMU.

Names come from the server's id, and what has its name is whole: it was made beside and renamed.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Literal, Protocol

import msgspec

from kilonova.cancel import Cancel
from kilonova.domain.errors import BuildAborted
from kilonova.domain.servers import BuildSpec, ImageLocation, ImageRef

GIB = 1 << 30
MIB = 1 << 20


class Name(StrEnum):
    """What a server's disks are called, after its id."""

    SYSTEM = "disk"
    EPHEMERAL = "disk.eph0"
    EPHEMERAL_1 = "disk.eph1"
    EPHEMERAL_2 = "disk.eph2"
    SWAP = "disk.swap"
    RESCUE = "disk.rescue"


EPHEMERALS = (Name.EPHEMERAL, Name.EPHEMERAL_1, Name.EPHEMERAL_2)


class FileSource(msgspec.Struct, frozen=True, kw_only=True):
    """A file on this host."""

    path: Path
    format: Literal["qcow2", "raw"]


class RbdSource(msgspec.Struct, frozen=True, kw_only=True):
    """An image of a Ceph pool, or ``image@snapshot``. ``secret``: libvirt's, with the user's key."""

    pool: str
    image: str
    monitors: list[str]
    user: str
    secret: str
    format: Literal["raw"] = "raw"


Source = FileSource | RbdSource
"""Where QEMU finds the bytes of a disk."""


class Space(msgspec.Struct, frozen=True, kw_only=True):
    """For disks, in GiB."""

    total_gb: int
    free_gb: int


class Backend(Protocol):
    """Every ``ensure_`` looks first and makes only what is missing.

    BuildAborted: no host can make it; BuildFailed: this one cannot; Unavailable: where they are, nobody
    answers. ``cancel`` set: StaleEpoch, soon.
    """

    def needs_file(self, image: ImageRef) -> bool:
        """Whether a disk of that image is made of the host's cached file, which must be there before."""

    def ensure_system(self, spec: BuildSpec, cancel: Cancel) -> str:
        """What the server boots from, of its image and as large as its flavor says (0: as the image is): how
        it was made, beginning with ``overlay``, ``clone``, ``copy`` or ``blank``; empty if it was there."""

    def ensure_rescue(self, spec: BuildSpec, image: ImageRef, cancel: Cancel) -> None:
        """A disk of that image, as large as it is. BuildAborted if that is more than ``flavor.rescue_gb``."""

    def ensure_ephemeral(self, spec: BuildSpec) -> None:
        """What the server was asked for with, mostly the flavor's: ext4, labels ``ephemeral0``, which
        cloud-init mounts at /mnt, and so on."""

    def ensure_swap(self, spec: BuildSpec) -> None:
        """The flavor's, if it has one."""

    def find(self, server_id: str, name: Name) -> Source | None:
        """The disk, if it is there."""

    def remove(self, server_id: str, name: Name) -> None:
        """Gone, also if it was not there. No guest has it."""

    def remove_all(self, server_id: str) -> None:
        """Every disk of the server is gone, half-made ones too; with what else is in its folder."""

    def server_ids(self) -> set[str]:
        """Servers that have anything here."""

    def hold(self, server_id: str) -> bool:
        """What the system disk holds at this moment is kept, though a guest goes on writing to it, until
        let_go(); False: that cannot be here."""

    def held(self, server_id: str) -> Source | None:
        """What hold() keeps, for flatten()."""

    def held_at(self, server_id: str) -> ImageLocation | None:
        """The same, for who is no hypervisor."""

    def let_go(self, server_id: str) -> None:
        """Nothing is held, also if nothing was."""

    def flatten(self, source: Source, target: Path, cancel: Cancel) -> None:
        """All that a guest would read of a disk that no guest has, as a qcow2 that needs no other file."""

    def space(self) -> Space:
        """All that there is for disks, and what of it is free."""

    def close(self) -> None:
        """Nothing is asked of it any more."""


def is_cdrom(spec: BuildSpec) -> bool:
    """An ISO image is put in as a CD, as Nova does; it has no overlay."""
    return spec.image is not None and spec.image.disk_format == "iso"


def system_size(spec: BuildSpec, needed: int) -> int:
    """Bytes of the system disk of an image that has ``needed``; BuildAborted if that is more than it gets."""
    wanted = spec.flavor.root_gb * GIB
    if wanted and needed > wanted:
        assert spec.image is not None
        raise BuildAborted(
            f"image {spec.image.id} has a disk of {needed / GIB:.2f} GiB, "
            f"the flavor one of {spec.flavor.root_gb} GiB"
        )
    return wanted or needed


def rescue_size(spec: BuildSpec, image: ImageRef, needed: int) -> int:
    """Bytes of the disk to rescue from of an image that has ``needed``; BuildAborted if that is too much."""
    if needed > spec.flavor.rescue_gb * GIB:
        raise BuildAborted(
            f"image {image.id} has a disk of {needed / GIB:.2f} GiB, to rescue from it may have "
            f"{spec.flavor.rescue_gb} GiB"
        )
    return needed


def blank_size(spec: BuildSpec) -> int:
    """Bytes of the system disk of a server without an image."""
    if not spec.flavor.root_gb:
        raise BuildAborted("a server without an image needs a flavor with a disk")
    return spec.flavor.root_gb * GIB
