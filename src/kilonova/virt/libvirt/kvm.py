"""Does KVM really run a guest here? Nobody is believed but a guest.

``/dev/kvm`` may exist, open and create machines, and libvirt may advertise it, and a guest under it may
still hang (seen on virtual machines whose host passes no hardware virtualisation on). So a probe guest runs
for at most ``timeout`` seconds: a ROM of 64 KiB that counts in real, protected and long mode and then writes
a byte to QEMU's exit port. Only that byte is success. A KVM that emulates every instruction is far too slow
to get there, and just as useless.
"""

from __future__ import annotations

import json
import os
import platform
import pwd
import shutil
import struct
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

import msgspec

from kilonova.domain import codec

EMULATOR = "qemu-system-x86_64"
DEVICE = Path("/dev/kvm")
_EXIT_PORT = 0xF4
_TOKEN = 0x2A
_EXIT_CODE = (_TOKEN << 1) | 1  # how isa-debug-exit turns the byte into an exit code
_PROBE_VERSION = 1


class KvmVerdict(msgspec.Struct, frozen=True, kw_only=True):
    usable: bool
    reason: str


class _Cached(msgspec.Struct, frozen=True, kw_only=True):
    key: str
    verdict: KvmVerdict


def probe(cache: Path | None = None, timeout: float = 2.0, user: str = "") -> KvmVerdict:
    """The verdict, from ``cache`` if the kernel, QEMU and the device are the same as then.

    ``user``: whom guests run as; empty: this one.
    """
    key = _key(user)
    if cache is not None and (known := _read(cache, key)) is not None:
        return known
    verdict = _decide(timeout, user)
    if cache is not None:
        part = cache.with_name(cache.name + ".part")
        part.write_bytes(msgspec.json.encode(_Cached(key=key, verdict=verdict)))
        part.rename(cache)
    return verdict


def is_closed_to(user: str) -> bool:
    """There is a KVM, and this user, of this machine's, may not open it. KeyError: there is no such user."""
    if not DEVICE.exists():
        return False
    if os.geteuid() != 0:
        return not os.access(DEVICE, os.R_OK | os.W_OK)
    who = pwd.getpwnam(user)
    done = subprocess.run(
        ["test", "-r", DEVICE, "-a", "-w", DEVICE],
        user=who.pw_uid,
        group=who.pw_gid,
        extra_groups=os.getgrouplist(user, who.pw_gid),
        check=False,
    )
    return done.returncode != 0


def _decide(timeout: float, user: str) -> KvmVerdict:
    if shutil.which(EMULATOR) is None:
        return KvmVerdict(usable=False, reason=f"{EMULATOR} is not installed")
    if not DEVICE.exists():
        return KvmVerdict(usable=False, reason=f"{DEVICE} does not exist")
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        return KvmVerdict(usable=False, reason=f"{DEVICE} may not be opened by this user")
    verdict = run_guest("kvm", timeout)
    if verdict.usable and user and is_closed_to(user):
        return KvmVerdict(usable=False, reason=f"{DEVICE} may not be opened by {user}, whom guests run as")
    return verdict


def run_guest(accelerator: str, timeout: float) -> KvmVerdict:
    """Run the probe guest under that accelerator (``tcg`` too: how the ROM itself is tested)."""
    with tempfile.TemporaryDirectory(prefix="kilonova-kvm-") as folder:
        rom = Path(folder, "probe.rom")
        rom.write_bytes(probe_rom())
        command = [
            *(EMULATOR, "-accel", accelerator, "-machine", "pc", "-m", "16", "-bios", str(rom)),
            *("-nodefaults", "-no-user-config", "-display", "none"),
            *("-device", f"isa-debug-exit,iobase={_EXIT_PORT:#x},iosize=1"),
        ]
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, check=False
            )
        except subprocess.TimeoutExpired:
            return KvmVerdict(
                usable=False, reason=f"a probe guest under {accelerator} hung (no answer in {timeout:g} s)"
            )
    if done.returncode != _EXIT_CODE:
        said = done.stderr.decode(errors="replace").strip()[-300:] or f"exit code {done.returncode}"
        return KvmVerdict(usable=False, reason=f"a probe guest under {accelerator} failed: {said}")
    return KvmVerdict(usable=True, reason=f"a probe guest ran under {accelerator}")


def probe_rom() -> bytes:
    """64 KiB that QEMU maps below 1 MiB and at the top of 4 GiB; the CPU starts at its offset 0xfff0."""
    real_mode = bytes.fromhex(
        "fa"  # cli
        "66b900001000"  # mov ecx, 0x100000
        "6649 75fc"  # 1: dec ecx; jnz 1b
        "2e660f0116 0002"  # lgdt cs:[0x200]
        "0f20c0 0c01 0f22c0"  # cr0 |= protection
        "66ea 40000f00 0800"  # jmp 8:0xf0040
    )
    protected_mode = bytes.fromhex(
        "b810000000 8ed8 8ec0 8ed0"  # ds = es = ss = 16
        "b900000001 49 75fd"  # count down from 0x1000000
        "31c0 bf00100000 b9000c0000 f3ab"  # clear three pages of tables at 0x1000
        "c70500100000 03200000"  # level 4 -> 0x2000
        "c70500200000 03300000"  # level 3 -> 0x3000
        "c70500300000 83000000"  # level 2: the first 2 MiB as they are
        "b800100000 0f22d8"  # cr3 = 0x1000
        "b820000000 0f22e0"  # cr4: physical address extension
        "b9800000c0 0f32 0d00010000 0f30"  # EFER: long mode
        "0f20c0 0d00000080 0f22c0"  # cr0 |= paging
        "ea c0000f00 1800"  # jmp 24:0xf00c0
    )
    long_mode = bytes.fromhex(
        "b900000001 ffc9 75fc"  # count down from 0x1000000
        f"66ba{struct.pack('<H', _EXIT_PORT).hex()} b0{_TOKEN:02x} ee"  # out exit port, token
        "f4 ebfd"  # halt for ever
    )
    segments = struct.pack("<4Q", 0, 0x00CF9A000000FFFF, 0x00CF92000000FFFF, 0x00AF9A000000FFFF)
    rom = bytearray(b"\xf4" * 0x10000)
    for offset, part in (
        (0, real_mode),
        (0x40, protected_mode),
        (0xC0, long_mode),
        (0x200, struct.pack("<HI", len(segments) - 1, 0xF0208)),
        (0x208, segments),
        (0xFFF0, bytes.fromhex("ea 0000 00f0")),  # jmp 0xf000:0
    ):
        rom[offset : offset + len(part)] = part
    return bytes(rom)


def _key(user: str) -> str:
    """What the verdict depends on. QEMU's file is asked for, not its version: that costs nothing."""
    emulator = shutil.which(EMULATOR)
    qemu = ""
    if emulator is not None:
        stat = os.stat(emulator)
        qemu = f"{emulator}:{stat.st_size}:{stat.st_mtime_ns}"
    device = ""
    with suppress(OSError):
        may_open = os.access(DEVICE, os.R_OK | os.W_OK) and not (user and is_closed_to(user))
        device = f"{os.stat(DEVICE).st_rdev}:{may_open}"
    return json.dumps([_PROBE_VERSION, platform.release(), qemu, device])


def _read(cache: Path, key: str) -> KvmVerdict | None:
    with suppress(OSError, msgspec.MsgspecError):
        cached = codec.from_json(cache.read_bytes(), _Cached)
        if cached.key == key:
            return cached.verdict
    return None
