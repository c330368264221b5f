"""The format inspector: refuses an image that is not what it says, or that reaches outside itself.

A qcow2 with a backing file, one with a data file, a VMDK with a parent or extents elsewhere make the
hypervisor open files of the host for the guest (CVE-2024-32498); a "raw" image with another format's header
does it wherever a tool guesses the format (CVE-2026-24708). So the bytes are looked at while they stream in,
and nothing unsafe ever becomes an image.

The parsers are oslo.utils' (what Glance and Nova use); they keep at most about a megabyte. This module adds
what they leave open: it does not depend on how the bytes arrive in chunks, sees headers of tiny files, and
reads a VMDK's descriptor as QEMU does.
"""

from __future__ import annotations

import re
import struct

from oslo_utils.imageutils import format_inspector
from oslo_utils.imageutils.format_inspector import FileInspector

from kilonova.domain.errors import UnsupportedMedia
from kilonova.domain.images import PACKED_CONTAINERS

HEAD = 1 << 20
"""Bytes that the parsers get in one piece first: their decisions must not depend on a client's chunks."""

HEADER = 512
"""Bytes that most parsers wait for before they decide."""

HARMLESS = frozenset({"gpt", "iso", "luks"})
"""Contents that a raw disk may well have: a partition table, a CD, an encrypted volume. None names a file."""

MAX_VIRTUAL_SIZE = 1 << 46
"""64 TiB, more than any file system here can hold: a disk of which nobody means that."""

_DESCRIPTOR = re.compile(rb"(?:#[^\n]*\n| +\r?\n)*version=[123]\r?\n")
"""What QEMU takes for a VMDK's descriptor wherever it guesses (vmdk_probe, block/vmdk.c): a text that names
files."""
_VHD_DIFFERENCING = 4
_VMDK_NO_PARENT = "ffffffff"


class Inspector:
    """Fed with an image's bytes in order; ``finish()`` is the verdict."""

    def __init__(self, disk_format: str, container_format: str) -> None:
        self._disk_format = disk_format
        self._packed = container_format in PACKED_CONTAINERS
        self._parsers = [kind() for name, kind in format_inspector.ALL_FORMATS.items() if name != "raw"]
        self._reading = list(self._parsers)
        self._head: bytearray | None = bytearray()
        self._is_descriptor = False
        self._size = 0

    def feed(self, chunk: bytes | memoryview) -> None:
        self._size += len(chunk)
        if self._head is None:
            self._parse(chunk)
            return
        self._head += chunk
        if len(self._head) >= HEAD:
            self._flush_head()

    def finish(self) -> int:
        """The virtual size in bytes. UnsupportedMedia says why the image is refused."""
        if self._head is not None:
            self._flush_head()
        for parser in self._parsers:
            parser.finish()
        found = {parser.NAME: parser for parser in self._parsers if _matches(parser)}
        if found.keys() == {"iso", "gpt"}:  # a CD that also boots from a USB stick
            del found["gpt"]
        if len(found) > 1:
            raise UnsupportedMedia(f"Multiple formats detected: {', '.join(sorted(found))}")
        return self._verdict(next(iter(found.values()), None))

    def _flush_head(self) -> None:
        head, self._head = bytes(self._head or b""), None
        self._is_descriptor = _DESCRIPTOR.match(head) is not None
        self._parse(head)
        if len(head) < HEADER:
            # Else the header of a tiny file would go unrecognised, which QEMU recognises.
            self._parse(b"\0" * (HEADER - len(head)))

    def _parse(self, chunk: bytes | memoryview) -> None:
        for parser in list(self._reading):
            try:
                parser.eat_chunk(chunk)  # type: ignore[arg-type]  # it takes copies of what it keeps
            except Exception:  # noqa: BLE001 - a parser that chokes has not recognised the content
                self._reading.remove(parser)

    def _verdict(self, parser: FileInspector | None) -> int:
        content = "raw" if parser is None else parser.NAME
        if parser is None and self._is_descriptor:
            content = "vmdk"
        if self._packed:
            if parser is not None:
                raise UnsupportedMedia(f"The container holds a bare {content} disk, not a packed one")
            return self._size
        if content == self._disk_format and parser is not None:
            return _safe_size(parser)
        if content == "raw" or content in HARMLESS:
            if self._disk_format in format_inspector.ALL_FORMATS and self._disk_format != "raw":
                raise self._mismatch(content)
            return self._size
        raise self._mismatch(content)

    def _mismatch(self, content: str) -> UnsupportedMedia:
        return UnsupportedMedia(f"Image disk_format {self._disk_format} does not match stream data {content}")


def _matches(parser: FileInspector) -> bool:
    try:
        return parser.format_match
    except Exception:  # noqa: BLE001 - what cannot even be parsed as this format is not of this format
        return False


def _safe_size(parser: FileInspector) -> int:
    """The virtual size of a disk in its own format, once it passed every check."""
    _check_safety(parser)
    try:
        size = parser.virtual_size
    except Exception as error:
        raise UnsupportedMedia(f"The {parser.NAME} header is damaged") from error
    if size > MAX_VIRTUAL_SIZE:
        raise UnsupportedMedia(f"The {parser.NAME} header says an impossible size: {size} bytes")
    return size


def _check_safety(parser: FileInspector) -> None:
    try:
        parser.safety_check()
    except format_inspector.SafetyCheckFailed as error:
        reasons = "; ".join(str(reason) for reason in error.failures.values())
        raise UnsupportedMedia(f"Image failed safety checks: {reasons}") from error
    except format_inspector.ImageFormatError as error:
        raise UnsupportedMedia(f"Image failed safety checks: {error}") from error
    if parser.NAME == "vmdk":
        _check_vmdk(parser)
    if parser.NAME == "vhd":
        _check_vhd(parser)


def _check_vmdk(parser: FileInspector) -> None:
    """What QEMU's VMDK driver would follow and oslo.utils passes.

    QEMU opens ``parentFileNameHint`` as a backing file; with a capacity of 0 in the header it takes the
    extents from the text, by names beside the image; and it reads keys case-sensitively where
    oslo.utils takes the first of any case, so that a key written twice means two things.
    """
    if not parser.has_region("header"):
        raise UnsupportedMedia("Image failed safety checks: A descriptor without its data")
    text = str(getattr(parser, "desc_text", None) or "")
    (capacity,) = struct.unpack("<Q", bytes(parser.region("header").data[12:20]))
    keys = [line.split("=")[0].strip() for line in text.splitlines() if "=" in line]
    parents = [line.split("=", 1)[1].strip() for line in text.splitlines() if line.startswith("parentcid")]
    if "parentfilenamehint" in text or any(parent != _VMDK_NO_PARENT for parent in parents):
        raise UnsupportedMedia("Image failed safety checks: Image has a parent file")
    if keys.count("createtype") != 1 or text.count("createtype") != 1:
        raise UnsupportedMedia("Image failed safety checks: Ambiguous createType in the descriptor")
    if capacity == 0:
        raise UnsupportedMedia("Image failed safety checks: Extents outside of the file")


def _check_vhd(parser: FileInspector) -> None:
    """A differencing disk (type 4) names the file of its parent."""
    (kind,) = struct.unpack(">I", bytes(parser.region("header").data[60:64]))
    if kind == _VHD_DIFFERENCING:
        raise UnsupportedMedia("Image failed safety checks: Image has a parent file")
