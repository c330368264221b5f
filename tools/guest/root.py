"""The root file system's tree: the files of rootfs/, busybox and its names, programs and their libraries."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from guest.commands import EPOCH, run
from guest.modules import ROOT, Modules

PROGRAMS = ("usr/sbin/dropbear", "usr/sbin/resize2fs", "usr/sbin/qemu-ga")
FOLDERS = {
    **dict.fromkeys(("dev", "proc", "sys", "run", "mnt", "boot", "var/log", "var/lib/cloud"), 0o755),
    **dict.fromkeys(("root", "root/.ssh", "home/cirros", "home/cirros/.ssh", "etc/dropbear"), 0o700),
    "tmp": 0o1777,
}
NOT_OURS = {"dpkg", "dpkg-deb", "rpm", "rpm2cpio"}
"""Names of busybox that would only mislead a program that looks for them."""


def build(
    tree: Path, files: Path, sysroot: Path, modules: Modules, kernel: str, password: str | None
) -> None:
    shutil.copytree(files, tree)
    for folder, mode in FOLDERS.items():
        (tree / folder).mkdir(parents=True, exist_ok=True)
        (tree / folder).chmod(mode)
    (tree / "var/run").symlink_to("../run")
    busybox = _install_busybox(tree, sysroot)
    _install_programs(tree, sysroot)
    modules.install(modules.with_dependencies(ROOT), tree / "lib/modules" / kernel)
    if password is not None:
        _set_password(tree / "etc/shadow", busybox, password)
    (tree / "etc/shadow").chmod(0o600)
    for path in [tree, *tree.rglob("*")]:
        os.utime(path, (EPOCH, EPOCH), follow_symlinks=False)


def _install_busybox(tree: Path, sysroot: Path) -> Path:
    busybox = tree / "bin/busybox"
    busybox.parent.mkdir()
    shutil.copy(sysroot / "bin/busybox", busybox)
    for name in run(busybox, "--list").decode().split():
        if name not in NOT_OURS and not (tree / "bin" / name).exists():
            (tree / "bin" / name).symlink_to("busybox")
    # The kernel and init look for these by their full names.
    for name in ("init", "getty", "poweroff", "reboot", "halt", "modprobe"):
        (tree / "sbin" / name).symlink_to("../bin/busybox")
    return busybox


def _install_programs(tree: Path, sysroot: Path) -> None:
    """The programs and every library that the loader of the guest finds for them."""
    loader = sysroot / "lib64/ld-linux-x86-64.so.2"
    libraries = [sysroot / "usr/lib/x86_64-linux-gnu", sysroot / "lib/x86_64-linux-gnu"]
    search = ":".join(map(str, libraries))
    for program in PROGRAMS:
        _copy(sysroot / program, tree / program)
        listing = run(loader, "--library-path", search, "--list", sysroot / program).decode()
        for found in re.findall(r"=> (\S.*) \(0x", listing):
            if not Path(found).is_relative_to(sysroot):
                raise SystemExit(f"mkguest: no package brings {Path(found).name}, which {program} needs")
            _copy(Path(found), tree / "lib/x86_64-linux-gnu" / Path(found).name)
    _copy(loader, tree / "lib64" / loader.name)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


def _set_password(shadow: Path, busybox: Path, password: str) -> None:
    hashed = run(busybox, "mkpasswd", "-m", "sha512", password).decode().strip()
    shadow.write_text(shadow.read_text().replace(":*:", f":{hashed}:"))
