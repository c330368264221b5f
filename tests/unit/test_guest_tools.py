"""The parts of tools/mkguest that are logic; that the guest boots is seen by the system tests."""

import fcntl
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


def test_of_two_that_build_at_once_one_waits_and_finds_it_built(tmp_path: Path) -> None:
    image, packages = tmp_path / "guest.qcow2", tmp_path / "packages"
    packages.mkdir()
    command = [sys.executable, TOOLS / "mkguest", "-o", image, "--packages", packages]
    with (packages / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as second:
            assert second.stderr is not None
            assert second.stdout is not None
            assert second.stderr.readline() == "mkguest: waiting for another one that is at work here\n"
            image.touch()
            image.with_name("guest.qcow2.inputs").write_text(digest_of_mkguest())
            fcntl.flock(lock, fcntl.LOCK_UN)
            assert second.stdout.read() == f"{image} is up to date\n"
    assert second.returncode == 0


def digest_of_mkguest() -> str:
    program = (
        "import runpy, sys; sys.path.insert(0, sys.argv[1]);"
        "print(runpy.run_path(sys.argv[1] + '/mkguest')['_digest'](None), end='')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, TOOLS], capture_output=True, text=True, check=True, timeout=30
    )
    return done.stdout
