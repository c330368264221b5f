"""Which QEMU libvirt finds where its user may not open /dev/kvm."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from kilonova.virt.libvirt import emulator, kvm
from kilonova.virt.libvirt.folder import Folder


@pytest.fixture
def qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One that says what it was called with and what it may, in a folder whose name a shell would split."""
    path = tmp_path / "a; folder" / kvm.EMULATOR
    path.parent.mkdir()
    path.write_text('#!/bin/sh\necho "$@"\ngrep -E "^Cap(Inh|Amb)" /proc/self/status\n')
    path.chmod(0o755)
    shutil.copy(path, path.with_name("qemu-system-i386"))
    monkeypatch.setenv("PATH", f"{path.parent}{os.pathsep}{os.environ['PATH']}")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path / "host")
    folder.make()
    return folder


def found() -> str:
    return shutil.which(kvm.EMULATOR) or ""


def test_where_it_is_closed_qemu_runs_without_rights(
    qemu: Path, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kvm, "is_closed_to", lambda user: user == "libvirt-qemu")
    emulator.choose(folder, "libvirt-qemu")
    assert found().startswith(str(folder.embed))
    said = subprocess.run(
        [found(), "-machine", "none,accel=kvm:tcg"], capture_output=True, text=True, check=True
    )
    assert said.stdout.split() == ["-machine", "none,accel=kvm:tcg", "CapInh:", "0" * 16, "CapAmb:", "0" * 16]

    assert (folder.embed / "without-kvm" / "qemu-system-i386").exists(), "libvirt asks it, too"

    emulator.choose(folder, "root")
    assert found() == str(qemu), "for guests that may open it, the machine's own"


def test_the_script_is_written_anew_for_another_qemu_only(
    qemu: Path, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kvm, "is_closed_to", lambda _user: True)
    emulator.choose(folder, "libvirt-qemu")
    script = Path(found())
    inode = script.stat().st_ino
    emulator.choose(folder, "libvirt-qemu")
    assert Path(found()).stat().st_ino == inode, "or libvirt would ask QEMU again"
    os.utime(qemu, (1, 1))
    emulator.choose(folder, "libvirt-qemu")
    assert Path(found()).stat().st_ino != inode


def test_a_machine_without_qemu(folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kvm, "is_closed_to", lambda _user: True)
    monkeypatch.setenv("PATH", str(tmp_path))
    emulator.choose(folder, "libvirt-qemu")
    assert os.environ["PATH"] == str(tmp_path)
