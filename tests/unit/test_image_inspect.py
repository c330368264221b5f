"""The format inspector against real files of qemu-img, and against files made to deceive."""

from __future__ import annotations

import struct
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kilonova.disk_image.inspect import Inspector
from kilonova.domain.errors import UnsupportedMedia

MIB = 1 << 20
GPT_PARTITION = bytes([0, 0, 2, 0, 0xEE, 0xFF, 0xFF, 0xFF, 1, 0, 0, 0, 0xFF, 0xFF, 0, 0])


def inspect(data: bytes, disk_format: str, container: str = "bare", chunk: int = 1 << 20) -> int:
    inspector = Inspector(disk_format, container)
    for start in range(0, len(data), chunk):
        inspector.feed(data[start : start + chunk])
    return inspector.finish()


def qemu_img(*arguments: str | Path) -> None:
    subprocess.run(["qemu-img", *map(str, arguments)], check=True, capture_output=True, timeout=60)


def make(folder: Path, kind: str, *options: str, size: str = "64M") -> bytes:
    path = folder / f"disk.{kind}"
    qemu_img("create", "-f", kind, *options, path, size)
    return path.read_bytes()


def mbr() -> bytes:
    """The first MiB of a disk with a GPT."""
    sector = b"\0" * 446 + GPT_PARTITION + b"\0" * 48 + b"\x55\xaa"
    return sector + b"\0" * (MIB - 512)


def iso() -> bytes:
    volume = bytearray(2048)
    volume[0:7] = b"\x01CD001\x01"
    volume[80:88] = struct.pack("<L", 300) + struct.pack(">L", 300)
    volume[128:132] = struct.pack("<H", 2048) + struct.pack(">H", 2048)
    return b"\0" * 32768 + bytes(volume) + b"\0" * 565_248


@pytest.mark.parametrize(
    ("kind", "options", "disk_format"),
    [
        ("qcow2", (), "qcow2"),
        ("qcow2", ("-o", "compat=0.10"), "qcow2"),
        ("qcow2", ("-o", "lazy_refcounts=on,compression_type=zstd"), "qcow2"),
        ("vmdk", (), "vmdk"),
        ("vdi", (), "vdi"),
        ("vhdx", (), "vhdx"),
        ("vpc", ("-o", "force_size=on"), "vhd"),
    ],
)
def test_honest_disks_pass_with_their_virtual_size(
    tmp_path: Path, kind: str, options: tuple[str, ...], disk_format: str
) -> None:
    assert inspect(make(tmp_path, kind, *options), disk_format) == 64 * MIB


def test_a_stream_optimized_vmdk_passes(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.write_bytes(b"data" * MIB)
    qemu_img("convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", raw, tmp_path / "s")
    assert inspect((tmp_path / "s").read_bytes(), "vmdk") == 4 * MIB


def test_a_huge_virtual_size_is_recorded(tmp_path: Path) -> None:
    assert inspect(make(tmp_path, "qcow2", size="64T"), "qcow2") == 1 << 46


@pytest.mark.parametrize("data", [b"", b"x", b"data" * 1000, b"hello world\n" * 500, mbr(), iso()])
def test_raw_is_what_is_no_other_format(data: bytes) -> None:
    assert inspect(data, "raw") == len(data)


def test_text_in_any_encoding_is_raw() -> None:
    assert inspect(b"a" * 600 + "ü".encode() * 600, "raw") == 1800


def test_an_iso_passes_as_iso_also_with_a_partition_table() -> None:
    hybrid = mbr()[:512] + iso()[512:]
    assert inspect(iso(), "iso") == inspect(hybrid, "iso") == 300 * 2048
    assert inspect(hybrid, "raw") == len(hybrid)


def test_kernels_with_a_boot_sector_pass() -> None:
    assert inspect(mbr(), "aki") == inspect(mbr(), "ari") == MIB


@pytest.mark.parametrize("kind", ["qcow2", "qed", "vmdk", "vdi", "vhdx", "vpc"])
def test_no_other_format_passes_as_raw(tmp_path: Path, kind: str) -> None:
    for disk_format in ("raw", "ami", "aki", "ploop", "iso"):
        with pytest.raises(UnsupportedMedia, match="does not match stream data"):
            inspect(make(tmp_path, kind), disk_format)


@pytest.mark.parametrize("disk_format", ["qcow2", "vmdk", "vdi", "vhd", "vhdx", "iso"])
def test_what_lies_about_its_format_is_refused(tmp_path: Path, disk_format: str) -> None:
    for data in (b"", b"raw data" * 1000, mbr(), b"\0" * MIB):
        with pytest.raises(UnsupportedMedia, match=f"disk_format {disk_format} does not match"):
            inspect(data, disk_format)


def test_a_backing_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"x" * MIB)
    evil = make(tmp_path, "qcow2", "-F", "raw", "-b", str(tmp_path / "secret"))
    with pytest.raises(UnsupportedMedia, match="Image has a backing file"):
        inspect(evil, "qcow2")


def test_a_data_file_is_refused(tmp_path: Path) -> None:
    evil = make(tmp_path, "qcow2", "-o", f"data_file={tmp_path}/outside,data_file_raw=on")
    with pytest.raises(UnsupportedMedia, match="data_file"):
        inspect(evil, "qcow2")


def test_unknown_features_are_refused(tmp_path: Path) -> None:
    disk = bytearray(make(tmp_path, "qcow2"))
    disk[72] |= 0x80
    with pytest.raises(UnsupportedMedia, match="Unknown QCOW2 features"):
        inspect(bytes(disk), "qcow2")


def test_an_impossible_size_is_refused(tmp_path: Path) -> None:
    disk = bytearray(make(tmp_path, "qcow2"))
    disk[24:32] = b"\xff" * 8
    with pytest.raises(UnsupportedMedia, match="impossible size"):
        inspect(bytes(disk), "qcow2")


@pytest.mark.parametrize("length", [8, 104, 511])
def test_a_header_cut_short_is_still_recognised(tmp_path: Path, length: int) -> None:
    with pytest.raises(UnsupportedMedia, match="does not match stream data qcow2"):
        inspect(make(tmp_path, "qcow2")[:length], "raw")


@pytest.mark.parametrize("kind", ["vhdx", "vmdk"])
def test_a_structure_cut_short_is_refused(tmp_path: Path, kind: str) -> None:
    whole = make(tmp_path, kind)
    for length in (100, 700, 200_000):
        with pytest.raises(UnsupportedMedia):
            inspect(whole[:length], "raw")


def test_two_headers_in_one_file_are_refused(tmp_path: Path) -> None:
    disk = make(tmp_path, "qcow2")
    both = disk[:32768] + iso()[32768:]
    for disk_format in ("qcow2", "iso", "raw"):
        with pytest.raises(UnsupportedMedia, match="Multiple formats"):
            inspect(both, disk_format)


def test_a_vmdk_of_several_files_is_refused(tmp_path: Path) -> None:
    text = make(tmp_path, "vmdk", "-o", "subformat=monolithicFlat")
    assert b"disk-flat.vmdk" in text
    with pytest.raises(UnsupportedMedia, match="Unsupported subformat"):
        inspect(text, "vmdk")
    with pytest.raises(UnsupportedMedia, match="does not match stream data vmdk"):
        inspect(text, "raw")


def change_descriptor(disk: bytes, old: bytes, new: bytes) -> bytes:
    """The VMDK with other text in its descriptor, which stays as long as it was."""
    assert old in disk
    changed = disk.replace(old, new, 1)
    start = disk.index(old)
    grown = len(changed) - len(disk)
    padding = changed.index(b"\0", start)
    if grown > 0:
        return changed[:padding] + changed[padding + grown :]
    return changed[:padding] + b"\0" * -grown + changed[padding:]


def test_a_vmdk_with_an_extent_elsewhere_is_refused(tmp_path: Path) -> None:
    evil = change_descriptor(make(tmp_path, "vmdk"), b'"disk.vmdk"', b'"/etc/shadow"')
    with pytest.raises(UnsupportedMedia, match="extent filenames"):
        inspect(evil, "vmdk")


def test_a_vmdk_with_a_parent_is_refused(tmp_path: Path) -> None:
    base = tmp_path / "base.vmdk"
    qemu_img("create", "-f", "vmdk", base, "64M")
    evil = make(tmp_path, "vmdk", "-F", "vmdk", "-b", str(base))
    assert b"parentFileNameHint" in evil
    with pytest.raises(UnsupportedMedia, match="parent file"):
        inspect(evil, "vmdk")


def test_a_vmdk_that_says_two_types_is_refused(tmp_path: Path) -> None:
    """oslo.utils reads the first, whatever its case; QEMU the one in its own spelling."""
    old = b'createType="monolithicSparse"'
    evil = change_descriptor(
        make(tmp_path, "vmdk"), old, b'createtype="monolithicSparse"\ncreateType="monolithicFlat"'
    )
    with pytest.raises(UnsupportedMedia, match="Ambiguous createType"):
        inspect(evil, "vmdk")


def test_a_vmdk_without_a_capacity_is_refused(tmp_path: Path) -> None:
    """QEMU would then open the extents that the text names."""
    disk = bytearray(make(tmp_path, "vmdk"))
    disk[12:20] = b"\0" * 8
    with pytest.raises(UnsupportedMedia, match="outside of the file"):
        inspect(bytes(disk), "vmdk")


def test_a_vmdk_descriptor_alone_is_refused() -> None:
    text = b'# Disk DescriptorFile\nversion=1\ncreateType="monolithicSparse"\nRW 2048 SPARSE "other"\n'
    with pytest.raises(UnsupportedMedia, match="without its data"):
        inspect(text.ljust(2048), "vmdk")


@pytest.mark.parametrize("before", [b"# Disk DescriptorFile\n", b"", b"# a\n  \r\n#\n"])
def test_a_text_that_qemu_takes_for_a_vmdk_is_no_raw_disk(tmp_path: Path, before: bytes) -> None:
    other = tmp_path / "other"
    other.write_bytes(bytes(1 << 20))
    text = b'version=1\nCID=1\nparentCID=ffffffff\ncreateType="monolithicFlat"\nRW 2048 FLAT "%s" 0\n'
    path = tmp_path / "disk"
    path.write_bytes((before + text % bytes(other)).ljust(1 << 16, b"\0"))
    told = subprocess.run(["qemu-img", "info", str(path)], check=True, capture_output=True, timeout=60)
    assert b"file format: vmdk" in told.stdout
    with pytest.raises(UnsupportedMedia, match="does not match stream data vmdk"):
        inspect(path.read_bytes(), "raw")


def test_a_differencing_vhd_is_refused(tmp_path: Path) -> None:
    disk = bytearray(make(tmp_path, "vpc"))
    disk[60:64] = struct.pack(">I", 4)
    with pytest.raises(UnsupportedMedia, match="parent file"):
        inspect(bytes(disk), "vhd")


@pytest.mark.parametrize("container", ["ova", "docker", "compressed"])
def test_a_packed_container_holds_no_bare_disk(tmp_path: Path, container: str) -> None:
    assert inspect(b"archive" * 1000, "qcow2", container) == 7000
    with pytest.raises(UnsupportedMedia, match="bare qcow2 disk"):
        inspect(make(tmp_path, "qcow2"), "qcow2", container)


def test_other_containers_are_no_way_around(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"x" * MIB)
    evil = make(tmp_path, "qcow2", "-F", "raw", "-b", str(tmp_path / "secret"))
    for container in ("ovf", "ami"):
        with pytest.raises(UnsupportedMedia, match="backing file"):
            inspect(evil, "qcow2", container)


@pytest.mark.parametrize("chunk", [1, 7, 63, 511, 4096, 65_537])
def test_the_verdict_does_not_depend_on_the_chunks(tmp_path: Path, chunk: int) -> None:
    text = make(tmp_path, "vmdk", "-o", "subformat=monolithicFlat")
    with pytest.raises(UnsupportedMedia, match="does not match stream data vmdk"):
        inspect(text, "raw", chunk=chunk)
    assert inspect(make(tmp_path, "vdi")[: 64 * 1024], "vdi", chunk=chunk) == 64 * MIB


@settings(max_examples=200, deadline=None)
@given(
    magic=st.sampled_from([b"", b"QFI\xfb", b"KDMV", b"conectix", b"vhdxfile", b"LUKS\xba\xbe", b"# Disk"]),
    rest=st.binary(max_size=2000),
    disk_format=st.sampled_from(["raw", "qcow2", "vmdk", "vhd", "vhdx", "vdi", "iso", "aki"]),
)
def test_garbage_is_accepted_or_refused_and_nothing_else(magic: bytes, rest: bytes, disk_format: str) -> None:
    with suppress(UnsupportedMedia):
        assert 0 <= inspect(magic + rest, disk_format) < 1 << 63
