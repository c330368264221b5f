"""The parts of tools/mkguest that are logic; that the guest boots is seen by the system tests."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"


def flattened(document: object) -> list[str]:
    program = TOOLS / "guest/rootfs/usr/lib/cloud/json.awk"
    done = subprocess.run(
        ["awk", "-f", program],
        input=json.dumps(document),
        capture_output=True,
        text=True,
        check=True,
        timeout=10,
    )
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("document", "lines"),
    [
        ({}, []),
        ({"uuid": "a-1", "launch_index": 0, "x": None}, ["uuid\ta-1", "launch_index\t0", "x\tnull"]),
        ({"public_keys": {"my key": "ssh-rsa AAAA me\n"}}, ["public_keys.my key\tssh-rsa AAAA me"]),
        ({"a": {"b": {"c": "d"}}, "e": "f"}, ["a.b.c\td", "e\tf"]),
        ({"l": ["x", ["y"], {"k": "z"}, []]}, ["l.0\tx", "l.1.0\ty", "l.2.k\tz"]),
        ({"p": 'a{b,c}: "d" \\ [e]'}, ['p\ta{b,c}: "d" \\ [e]']),
        ({"": "", "n": "two\nlines"}, ["\t", "n\ttwo\\nlines"]),
    ],
)
def test_the_guest_reads_json(document: object, lines: list[str]) -> None:
    assert flattened(document) == lines


def test_the_initramfs_does_not_depend_on_the_order_of_its_files() -> None:
    sys.path.insert(0, str(TOOLS))
    try:
        from guest import initramfs
    finally:
        sys.path.remove(str(TOOLS))
    archive = initramfs.cpio({"bin": (0o040755, b""), "bin/tool": (0o100755, b"12345")})
    assert archive == initramfs.cpio({"bin/tool": (0o100755, b"12345"), "bin": (0o040755, b"")})
    assert len(archive) % 4 == 0
    assert archive.count(b"070701") == 3
    assert b"bin/tool\x00" in archive
    assert archive.rstrip(b"\0").endswith(b"TRAILER!!!")
