"""The disks of a server: system disk, ephemeral, swap. Each is made beside and renamed: whole or absent."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from kilonova.disk_image import qemu_img
from kilonova.domain.errors import BuildAborted, BuildFailed
from kilonova.domain.servers import BuildSpec
from kilonova.virt.libvirt.folder import Instance
from kilonova.virt.libvirt.images import BOOTABLE_FORMATS, ImageCache, virtual_size

GIB = 1 << 30
MIB = 1 << 20
_MKFS_TIMEOUT = 120.0


def is_cdrom(spec: BuildSpec) -> bool:
    """An ISO image is put in as a CD, as Nova does; it has no overlay."""
    return spec.image is not None and spec.image.disk_format == "iso"


def ensure_system_disk(spec: BuildSpec, instance: Instance, images: ImageCache) -> None:
    """An overlay on the cached image, as large as the flavor says (0: as the image is)."""
    if is_cdrom(spec):
        return
    wanted = spec.flavor.root_gb * GIB
    if spec.image is None:
        if not wanted:
            raise BuildAborted("a server without an image needs a flavor with a disk")
        _once(instance.disk, lambda part: qemu_img.create_empty(part, size=wanted))
        return
    base = images.path(spec.image)
    needed = virtual_size(base, spec.image)
    if wanted and needed > wanted:
        raise BuildAborted(
            f"image {spec.image.id} has a disk of {needed / GIB:.2f} GiB, "
            f"the flavor one of {spec.flavor.root_gb} GiB"
        )
    base_format = BOOTABLE_FORMATS[spec.image.disk_format]
    size = wanted or needed
    _once(
        instance.disk,
        lambda part: qemu_img.create_overlay(part, base=base, base_format=base_format, size=size),
    )


def ensure_ephemeral(spec: BuildSpec, instance: Instance) -> None:
    """Sparse raw, ext4, label ``ephemeral0``: what cloud-init mounts at /mnt."""
    if spec.flavor.ephemeral_gb:
        make = ("mkfs.ext4", "-q", "-F", "-L", "ephemeral0", "-E", "lazy_itable_init=1,lazy_journal_init=1")
        _once(instance.ephemeral, lambda part: _formatted(part, spec.flavor.ephemeral_gb * GIB, make))


def ensure_swap(spec: BuildSpec, instance: Instance) -> None:
    if spec.flavor.swap_mb:
        _once(instance.swap, lambda part: _formatted(part, spec.flavor.swap_mb * MIB, ("mkswap",)))


def _once(path: Path, make: Callable[[Path], None]) -> None:
    if path.exists():
        return
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)
    try:
        make(part)
        part.chmod(0o600)
        part.rename(path)
    except OSError as error:
        raise BuildFailed(f"cannot make {path.name}: {error}") from error
    finally:
        part.unlink(missing_ok=True)


def _formatted(path: Path, size: int, command: tuple[str, ...]) -> None:
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
