"""The disk: a partition table, a FAT partition with the boot loader, an ext4 partition with the root."""

from __future__ import annotations

import struct
from pathlib import Path

from guest.commands import run

MIB = 1 << 20
SECTOR = 512
BOOT_START, BOOT_SIZE = 1 * MIB, 20 * MIB
ROOT_START, ROOT_SIZE = BOOT_START + BOOT_SIZE, 40 * MIB
BIG_ROOT_SIZE = 160 * MIB
"""Of a guest that has Python in it."""
DISK_SIGNATURE = 0x6B696C6F
FILE_SYSTEM_ID = "6b696c6f-6e6f-4761-8000-000000000001"

KERNEL_OPTIONS = (
    "console=tty0 console=ttyS0,115200n8 quiet panic=10 "
    # The rest is for speed where the processor is emulated, and for a guest that guards nothing.
    "mitigations=off nokaslr no_timer_check tsc=reliable random.trust_cpu=on cryptomgr.notests audit=0"
)
SYSLINUX = (
    f"DEFAULT guest\nPROMPT 0\nLABEL guest\n KERNEL vmlinuz\n INITRD initrd\n APPEND {KERNEL_OPTIONS}\n"
)


def build(
    work: Path, root_tree: Path, kernel: Path, initramfs: bytes, tools: Path, root_size: int = ROOT_SIZE
) -> Path:
    """The raw disk image, in the folder ``work``."""
    disk = work / "disk.raw"
    boot, root = _boot_partition(work, kernel, initramfs, tools), _root_partition(work, root_tree, root_size)
    with disk.open("wb") as image:
        image.truncate(ROOT_START + root_size)
        image.write((tools / "usr/lib/SYSLINUX/mbr.bin").read_bytes()[:440])
        image.write(_partition_table(root_size))
        for start, partition in ((BOOT_START, boot), (ROOT_START, root)):
            image.seek(start)
            image.write(partition.read_bytes())
    return disk


def write_qcow2(disk: Path, out: Path) -> None:
    partial = out.with_name(out.name + ".partial")
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", disk, partial)
    partial.rename(out)


def _partition_table(root_size: int) -> bytes:
    """Bytes 440 to 512 of the first sector. Partition types: 0x06 FAT16, 0x83 Linux."""

    def entry(active: bool, kind: int, start: int, size: int) -> bytes:
        beyond = b"\xfe\xff\xff"  # cylinder, head, sector: "use the sector number"
        numbers = struct.pack("<II", start // SECTOR, size // SECTOR)
        return bytes([0x80 if active else 0]) + beyond + bytes([kind]) + beyond + numbers

    boot = entry(True, 0x06, BOOT_START, BOOT_SIZE)
    root = entry(False, 0x83, ROOT_START, root_size)
    return struct.pack("<IH", DISK_SIGNATURE, 0) + boot + root + bytes(32) + b"\x55\xaa"


def _boot_partition(work: Path, kernel: Path, initramfs: bytes, tools: Path) -> Path:
    image = work / "boot.fat"
    with image.open("wb") as file:
        file.truncate(BOOT_SIZE)
    (work / "initrd").write_bytes(initramfs)
    (work / "syslinux.cfg").write_text(SYSLINUX)
    (work / "vmlinuz").write_bytes(kernel.read_bytes())
    path = [tools / "usr/bin", tools / "sbin"]
    hidden = str(BOOT_START // SECTOR)
    run("mkfs.fat", "--invariant", "-F", "16", "-n", "BOOT", "-h", hidden, image, path=path)
    run("syslinux", "--install", image, path=path)
    run("mcopy", "-i", image, work / "vmlinuz", work / "initrd", work / "syslinux.cfg", "::/", path=path)
    return image


def _root_partition(work: Path, tree: Path, size: int) -> Path:
    image = work / "root.ext4"
    run(
        *("mke2fs", "-q", "-F", "-t", "ext4", "-L", "guest-root", "-U", FILE_SYSTEM_ID, "-m", "0"),
        *("-b", "4096", "-J", "size=4", "-O", "^metadata_csum"),
        *("-E", f"root_owner=0:0,lazy_itable_init=1,hash_seed={FILE_SYSTEM_ID}"),
        *("-d", tree, image, f"{size // MIB}M"),
    )
    return image
