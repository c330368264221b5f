"""Where things lie: every path of the driver, made from checked ids, inside one folder.

embed/                    root of qemu:///embed: libvirt's own configuration, sockets and logs
instances/<server id>/    disk (or disk.raw), disk.eph0, disk.swap, disk.config, disk.snapshot, console.log
_base/                    images, each fetched once, never written again
"""

from __future__ import annotations

import re
import shutil
from contextlib import suppress
from pathlib import Path

from kilonova.domain.errors import BuildAborted, BuildFailed, NotFound
from kilonova.virt.ids import checked_id

OVERLAYS = ("disk", "disk.rescue")
"""Files in a server's folder that are qcow2, as we made them. In most others guests choose every byte."""
_PREFIX = "instance-"
_HASH = re.compile(r"[0-9a-f]{64,128}")


def domain_name(server_id: str) -> str:
    return _PREFIX + checked_id(server_id)


def server_of(domain: str) -> str | None:
    """The server whose domain has this name; None if the domain is not ours."""
    if not domain.startswith(_PREFIX):
        return None
    try:
        return checked_id(domain.removeprefix(_PREFIX))
    except NotFound:
        return None


class Instance:
    """The files of one server, but for its disks (virt.libvirt.disk)."""

    def __init__(self, path: Path) -> None:
        self.server_id = path.name
        self.path = path
        self.config_drive = path / "disk.config"
        self.console = path / "console.log"
        self.awaits_start = path / "awaits-start"
        """Exists from before a build starts the domain paused until it let the guest run."""
        self.rescue_config_drive = path / "disk.config.rescue"
        self.boot_cd = path / "disk.cd"
        """Links to the image that the server boots from as a CD, which stays while none is in its drive."""
        self.snapshot = path / "disk.snapshot"
        self.frozen = path / "frozen"
        """Exists from before the guest's agent is told to hold its file systems still until they go on."""

    def make(self) -> None:
        self.path.mkdir(mode=0o711, exist_ok=True)

    def boots_from(self, cd: Path | None) -> None:
        """It is noted."""
        if cd is None or (self.boot_cd.is_symlink() and self.boot_cd.readlink() != cd):
            self.boot_cd.unlink(missing_ok=True)
        if cd is not None:
            with suppress(FileExistsError):
                self.boot_cd.symlink_to(cd)


class Folder:
    """The driver's folder. QEMU may run as another user: that user can pass through, not list."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.embed = self.root / "embed"
        self.instances = self.root / "instances"
        self.base = self.root / "_base"

    def make(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True, mode=0o711)
        for path in (self.embed, self.instances, self.base):
            path.mkdir(mode=0o711, exist_ok=True)

    def instance(self, server_id: str) -> Instance:
        return Instance(self.instances / checked_id(server_id))

    def image(self, image_id: str, sha512: str | None) -> Path:
        """Of the image's hash if it has one (two images of the same bytes are one file), else of its id."""
        if sha512 is None:
            return self.base / checked_id(image_id)
        if not _HASH.fullmatch(sha512):
            raise BuildAborted(f"image {image_id}: {sha512!r} is not a hash")
        return self.base / sha512

    def server_ids(self) -> set[str]:
        """Servers that have a folder here."""
        found = set()
        for path in self.instances.iterdir():
            with suppress(NotFound):
                found.add(checked_id(path.name))
        return found

    def remove(self, server_id: str) -> None:
        """The server's files are gone, and libvirt's log of it. BuildFailed if one cannot be removed."""
        try:
            shutil.rmtree(self.instance(server_id).path)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise BuildFailed(f"cannot remove the server's disks: {error.strerror}") from error
        (self.embed / "log" / "qemu" / f"{domain_name(server_id)}.log").unlink(missing_ok=True)
