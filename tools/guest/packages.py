"""Debian packages, downloaded and unpacked in a folder: nothing is installed on this machine.

Installing them would be impolite: a kernel adds itself to the boot menu, and busybox-static replaces busybox.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from pathlib import Path

from guest.commands import run

GUEST = (
    ("busybox-static",),
    ("dropbear-bin",),
    ("e2fsprogs",),
    # What dropbear and resize2fs link to. Debian 13 renamed one of them.
    ("libc6",),
    ("libcom-err2",),
    ("libcrypt1",),
    ("libext2fs2t64", "libext2fs2"),
    ("libgmp10",),
    ("libtomcrypt1",),
    ("libtommath1",),
    ("zlib1g",),
    # The guest agent, which runs where somebody starts it.
    ("qemu-guest-agent",),
    ("libglib2.0-0t64", "libglib2.0-0"),
    ("libnuma1",),
    ("libpcre2-8-0",),
    ("libudev1",),
    ("liburing2",),
)
TOOLS = (("dosfstools",), ("mtools",), ("syslinux",), ("syslinux-common",))
KERNEL = "linux-image-cloud-amd64"


def fetch(folder: Path, more: tuple[tuple[str, ...], ...] = ()) -> tuple[Path, Path]:
    """The guest's packages and the tools', each unpacked in its own folder below ``folder``."""
    wanted = (*GUEST, *more, (kernel_package(),))
    named = hashlib.sha256(repr(wanted).encode()).hexdigest()[:12]
    sysroot, tools = folder / f"sysroot-{named}", folder / "tools"
    if not sysroot.is_dir():
        _unpack(sysroot, wanted)
    if not tools.is_dir():
        _unpack(tools, TOOLS)
    return sysroot, tools


def kernel_package() -> str:
    """The kernel that the metapackage stands for now."""
    _refresh_lists_if_empty()
    found = re.search(r"^\s+Depends: (linux-image-\S+)", run("apt-cache", "depends", KERNEL).decode(), re.M)
    if not found:
        raise SystemExit(f"mkguest: apt knows no {KERNEL}: this needs Debian, and up-to-date package lists")
    return found[1]


def _refresh_lists_if_empty() -> None:
    known = subprocess.run(
        ["apt-cache", "show", KERNEL], capture_output=True, check=False, timeout=60, stdin=subprocess.DEVNULL
    )
    if known.returncode != 0 and os.geteuid() == 0:
        run("apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300", "update")


def _unpack(root: Path, wanted: tuple[tuple[str, ...], ...]) -> None:
    debs = root.with_suffix(".debs")
    debs.mkdir(parents=True, exist_ok=True)
    names = [_first_known(alternatives) for alternatives in wanted]
    # apt-get download writes into the working folder, and as root it would drop to a user who may not.
    run("env", "-C", debs, "apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", *names)
    partial = root.with_suffix(".partial")
    run("rm", "-rf", partial)
    for merged in ("bin", "sbin", "lib", "lib64"):
        (partial / "usr" / merged).mkdir(parents=True)
        (partial / merged).symlink_to(f"usr/{merged}")
    for deb in sorted(debs.glob("*.deb")):
        archive = partial.with_suffix(".tar")
        archive.write_bytes(run("dpkg-deb", "--fsys-tarfile", deb))
        run("tar", "-x", "-C", partial, "--keep-directory-symlink", "--no-same-owner", "-f", archive)
        archive.unlink()
    run("rm", "-rf", debs)
    partial.rename(root)


def _first_known(alternatives: tuple[str, ...]) -> str:
    if len(alternatives) == 1:
        return alternatives[0]
    known = [name for name in alternatives if name in run("apt-cache", "pkgnames", name).decode().split()]
    if not known:
        raise SystemExit(f"mkguest: apt knows none of {', '.join(alternatives)}")
    return known[0]
