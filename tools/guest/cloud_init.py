"""A guest that Debian's own cloud-init configures: the small guest's root, with Python and cloud-init in it.

Nothing is installed in the sense of dpkg: what cloud-init needs is copied and compiled to bytecode, since
compiling takes minutes where the processor is emulated.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from guest.commands import EPOCH, run

PYTHON = (
    *("yaml", "jinja2", "markupsafe", "json-pointer", "jsonpatch", "jsonschema", "attr", "pyrsistent"),
    *("configobj", "six", "oauthlib", "requests", "urllib3", "idna", "certifi", "chardet", "serial"),
    *("netifaces", "pkg-resources"),
)
LIBRARIES = (
    *("libssl3t64", "libssl3"),
    *("libyaml-0-2", "libexpat1", "libffi8", "liblzma5", "libbz2-1.0", "libuuid1", "libblkid1"),
)
FOLDERS = ("usr/lib/python3", "etc/cloud/templates", "usr/lib/cloud-init")
PROGRAMS = ("usr/bin/cloud-init", "usr/sbin/blkid")


def packages() -> tuple[tuple[str, ...], ...]:
    """Of the Python that this Debian calls python3."""
    version = python()
    one = lambda name: (name,)  # noqa: E731
    return (
        ("cloud-init",),
        ("util-linux",),
        *map(one, (f"{version}-minimal", f"lib{version}-minimal", f"lib{version}-stdlib")),
        *map(one, (f"python3-{name}" for name in PYTHON)),
        ("libssl3t64", "libssl3"),
        *map(one, LIBRARIES[2:]),
    )


def python() -> str:
    """``python3.11``"""
    depends = run("apt-cache", "depends", "python3-minimal").decode()
    found = re.search(r"Depends: (python3\.\d+)-minimal", depends)
    if not found:
        raise SystemExit("mkguest: apt knows no python3-minimal")
    return found[1]


def install(tree: Path, sysroot: Path, overlay: Path) -> None:
    """Into the root that root.build() made."""
    version = python()
    for folder in (*FOLDERS, f"usr/lib/{version}"):
        shutil.copytree(sysroot / folder, tree / folder, dirs_exist_ok=True, symlinks=True)
    for program in (*PROGRAMS, f"usr/bin/{version}"):
        (tree / program).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(sysroot / program, tree / program)
    (tree / "usr/bin/python3").symlink_to(version)
    for library in (sysroot / "usr/lib/x86_64-linux-gnu").glob("*.so*"):
        if library.is_file() and not (tree / "lib/x86_64-linux-gnu" / library.name).exists():
            shutil.copy(library, tree / "lib/x86_64-linux-gnu" / library.name)
    shutil.copytree(overlay, tree, dirs_exist_ok=True)
    (tree / "etc/os-release").write_text('ID=debian\nNAME="Debian GNU/Linux"\nVERSION_ID="12"\n')
    _compile(tree, sysroot, version)
    for path in [tree, *tree.rglob("*")]:
        os.utime(path, (EPOCH, EPOCH), follow_symlinks=False)


def _compile(tree: Path, sysroot: Path, version: str) -> None:
    """By the guest's own Python. What is told of a source is its content: its date is set after this."""
    loader = sysroot / "lib64/ld-linux-x86-64.so.2"
    libraries = tree / "lib/x86_64-linux-gnu"
    folders = [tree / "usr/lib" / version, tree / "usr/lib/python3"]
    home = f"PYTHONHOME={tree / 'usr'}"
    program = tree / "usr/bin" / version
    command = ("env", home, loader, "--library-path", libraries, program, "-m", "compileall", "-q")
    run(*command, "-s", tree, "-p", "/", "--invalidation-mode", "unchecked-hash", *folders)
