"""Disks that are files in the server's folder: what ``qcow2`` and ``raw`` have in common."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

from kilonova.cancel import Cancel
from kilonova.disk_image import durable, qemu_img
from kilonova.domain.errors import BuildFailed
from kilonova.domain.servers import BuildSpec, ImageLocation, ImageRef
from kilonova.virt.libvirt.disk.base import (
    EPHEMERALS,
    GIB,
    MIB,
    FileSource,
    Name,
    Source,
    Space,
    blank_size,
    is_cdrom,
    rescue_size,
    system_size,
)
from kilonova.virt.libvirt.folder import OVERLAYS, Folder
from kilonova.virt.libvirt.images import ImageCache, virtual_size

_MKFS_TIMEOUT = 120.0
_MKFS = ("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=1,lazy_journal_init=1")
MKSWAP = ("mkswap",)


class Files:
    """``_of_image`` and ``_blank`` make a disk at a path that is not there yet."""

    format: Literal["qcow2", "raw"]
    made_of_image: str

    def __init__(self, folder: Folder, images: ImageCache) -> None:
        self._folder = folder
        self._images = images

    def _of_image(self, path: Path, image: ImageRef, size: int, cancel: Cancel) -> None:
        raise NotImplementedError

    def _blank(self, path: Path, size: int) -> None:
        raise NotImplementedError

    def needs_file(self, image: ImageRef) -> bool:
        return True

    def ensure_system(self, spec: BuildSpec, cancel: Cancel) -> str:
        path = self._new(spec.server_id, Name.SYSTEM)
        if is_cdrom(spec) or self.find(spec.server_id, Name.SYSTEM) is not None:
            return ""
        image = spec.image
        if image is None:
            size = blank_size(spec)
            once(path, lambda part: self._blank(part, size))
            return "blank"
        size = system_size(spec, virtual_size(self._images.path(image), image))
        once(path, lambda part: self._of_image(part, image, size, cancel))
        return self.made_of_image

    def ensure_rescue(self, spec: BuildSpec, image: ImageRef, cancel: Cancel) -> None:
        size = rescue_size(spec, image, virtual_size(self._images.path(image), image))
        path = self._new(spec.server_id, Name.RESCUE)
        once(path, lambda part: self._of_image(part, image, size, cancel))

    def ensure_ephemeral(self, spec: BuildSpec) -> None:
        for number, (name, size_gb) in enumerate(zip(EPHEMERALS, spec.ephemeral_disks, strict=False)):
            make = partial(formatted, size=size_gb * GIB, command=mkfs(number))
            once(self._path(spec.server_id, name), make)

    def ensure_swap(self, spec: BuildSpec) -> None:
        if size := spec.swap_size_mb * MIB:
            once(self._path(spec.server_id, Name.SWAP), lambda part: formatted(part, size, MKSWAP))

    def find(self, server_id: str, name: Name) -> Source | None:
        for path, disk_format in self._ways(server_id, name).items():
            if path.exists():
                return FileSource(path=path, format=disk_format)
        return None

    def remove(self, server_id: str, name: Name) -> None:
        for path in self._ways(server_id, name):
            path.unlink(missing_ok=True)

    def remove_all(self, server_id: str) -> None:
        self._folder.remove(server_id)

    def server_ids(self) -> set[str]:
        return self._folder.server_ids()

    def flatten(self, source: Source, target: Path, cancel: Cancel) -> None:
        assert isinstance(source, FileSource)

        def make(part: Path) -> None:
            qemu_img.flatten(source.path, source.format, part, cancel)

        once(target, make, os.rename)  # after a crash it is taken anew

    def hold(self, server_id: str) -> bool:
        return False

    def held(self, server_id: str) -> Source | None:
        return None

    def held_at(self, server_id: str) -> ImageLocation | None:
        return None

    def let_go(self, server_id: str) -> None:
        """Nothing is ever held."""

    def space(self) -> Space:
        """Of the file system that they are on."""
        found = shutil.disk_usage(self._folder.root)
        return Space(total_gb=found.total // GIB, free_gb=found.free // GIB)

    def close(self) -> None:
        """Nothing was opened."""

    def _path(self, server_id: str, name: Name) -> Path:
        return self._folder.instance(server_id).path / name

    def _new(self, server_id: str, name: Name) -> Path:
        """Of a disk with an image, as this backend makes it."""
        found = self._ways(server_id, name)
        return next(path for path, disk_format in found.items() if disk_format == self.format)

    def _ways(self, server_id: str, name: Name) -> dict[Path, Literal["qcow2", "raw"]]:
        """Where it may be, and the format that it has there: the name says it, never the content nor what is
        configured now, for a guest may write into a raw disk what another format begins with."""
        path = self._path(server_id, name)
        if name not in OVERLAYS:
            return {path: "raw"}
        return {path: "qcow2", path.with_name(f"{path.name}.raw"): "raw"}


def once(path: Path, make: Callable[[Path], None], put: Callable[[Path, Path], None] = durable.put) -> None:
    """The file is there, whole: made beside and renamed, if it was not."""
    if path.exists():
        return
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)
    try:
        os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        make(part)
        put(part, path)
    except OSError as error:
        raise BuildFailed(f"cannot make {path.name}: {error}") from error
    finally:
        part.unlink(missing_ok=True)


def mkfs(number: int) -> tuple[str, ...]:
    """Of the ephemeral disk of that number."""
    return (*_MKFS, "-L", f"ephemeral{number}")


def formatted(path: Path, size: int, command: tuple[str, ...]) -> None:
    """A sparse file of ``size`` bytes, formatted by ``command``."""
    with path.open("wb") as file:
        file.truncate(size)
    try:
        done = subprocess.run(
            [*command, str(path)],
            # The formatting tools live in sbin, which a user's PATH may lack.
            env={**os.environ, "LC_ALL": "C", "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_MKFS_TIMEOUT,
            check=False,
        )
    except FileNotFoundError as error:
        raise BuildFailed(f"{command[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise BuildFailed(f"{command[0]} took more than {_MKFS_TIMEOUT:.0f} s") from error
    if done.returncode != 0:
        raise BuildFailed(f"{command[0]}: {done.stderr.strip() or f'exit {done.returncode}'}")
