"""Which QEMU the libvirt in our process finds: the machine's own, or one kept from a closed /dev/kvm.

libvirt lets QEMU tell what it can do with the right to open every file (CAP_DAC_OVERRIDE, for /dev/sev), so
QEMU tells of a KVM that root alone may open. Then libvirt sees that guests, which run as another user, may
not; it holds what it was told to be out of date, and asks again: a dozen times for each guest, ten seconds in
all. Distributions open /dev/kvm to the group kvm by udev; containers and small virtual machines often have no
udev. There, libvirt finds a script in our folder first, which gives that right away and becomes QEMU.
"""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path

from kilonova import log
from kilonova.virt.libvirt import kvm
from kilonova.virt.libvirt.folder import Folder

_FOLDER = "without-kvm"
_EMULATORS = (kvm.EMULATOR, "qemu-system-i386")
"""Those that could use the device; guests run by the first, and libvirt asks both when it starts."""
_log = log.get("virt.libvirt")


def choose(folder: Folder, user: str) -> None:
    """For guests that ``user`` runs: what libvirt finds in PATH from now on.

    The scripts stay where they are, also when they are not needed any more: domains may name one.
    """
    path = [place for place in os.environ.get("PATH", os.defpath).split(os.pathsep) if not _is_ours(place)]
    found = [shutil.which(name, path=os.pathsep.join(path)) for name in _EMULATORS]
    ours = folder.embed / _FOLDER
    if found[0] is not None and kvm.is_closed_to(user) and os.pathsep not in str(ours):
        for qemu in filter(None, found):
            _write(ours / Path(qemu).name, Path(qemu))
        path.insert(0, str(ours))
        _log.info("qemu_without_kvm", reason=f"{kvm.DEVICE} is closed to {user}", scripts=str(ours))
    os.environ["PATH"] = os.pathsep.join(path)


def _is_ours(place: str) -> bool:
    return Path(place).name == _FOLDER and Path(place).parent.name == "embed"


def _write(script: Path, qemu: Path) -> None:
    """Only when QEMU is another than it was: libvirt asks again when the script is newer than the answers."""
    stat = qemu.stat()
    text = (
        "#!/bin/sh\n"
        f"# For {qemu} of {stat.st_size} bytes, {stat.st_mtime_ns}\n"
        f'exec setpriv --inh-caps -all --ambient-caps -all {shlex.quote(str(qemu))} "$@"\n'
    )
    if script.is_file() and script.read_text() == text:
        return
    script.parent.mkdir(mode=0o711, exist_ok=True)
    part = script.with_suffix(".part")
    part.write_text(text)
    part.chmod(0o755)
    part.rename(script)
