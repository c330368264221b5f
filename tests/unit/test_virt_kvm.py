"""The KVM probe: believes only a guest, is bounded, and remembers."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from kilonova.virt.libvirt import kvm

needs_qemu = pytest.mark.skipif(shutil.which(kvm.EMULATOR) is None, reason="QEMU is not installed")


@needs_qemu
def test_the_probe_guest_really_runs() -> None:
    """Under emulation, which works everywhere: so the ROM is right, and a hang is KVM's."""
    assert kvm.run_guest("tcg", timeout=120.0).usable


@needs_qemu
def test_the_probe_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verdict = kvm.probe(tmp_path / "kvm.json", timeout=1.0)
    assert verdict.reason
    monkeypatch.setattr(kvm, "_decide", lambda _timeout, _user: pytest.fail("the second start costs nothing"))
    assert kvm.probe(tmp_path / "kvm.json", timeout=1.0) == verdict


def test_another_machine_is_probed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "kvm.json"
    answers = iter([kvm.KvmVerdict(usable=True, reason="one"), kvm.KvmVerdict(usable=False, reason="two")])
    monkeypatch.setattr(kvm, "_decide", lambda _timeout, _user: next(answers))
    assert kvm.probe(cache).usable
    assert kvm.probe(cache).usable
    monkeypatch.setattr(kvm.platform, "release", lambda: "another-kernel")
    assert not kvm.probe(cache).usable


@pytest.mark.parametrize("content", ["", "{", "[]", '{"key": 1}', "\x00\xff"])
def test_a_broken_memory_is_no_trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    cache = tmp_path / "kvm.json"
    cache.write_text(content)
    monkeypatch.setattr(kvm, "_decide", lambda _timeout, _user: kvm.KvmVerdict(usable=True, reason="ran"))
    assert kvm.probe(cache).reason == "ran"


def test_without_qemu_there_is_no_kvm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    verdict = kvm.probe()
    assert not verdict.usable
    assert "not installed" in verdict.reason


@needs_qemu
def test_a_guest_that_does_not_answer_is_no_guest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kvm, "probe_rom", lambda: b"\xf4" * 0x10000)  # it halts at once
    verdict = kvm.run_guest("tcg", timeout=1.0)
    assert not verdict.usable
    assert "hung" in verdict.reason


def test_a_kvm_that_guests_may_not_open_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(kvm, "DEVICE", tmp_path)
    monkeypatch.setattr(kvm.shutil, "which", lambda _name: "/usr/bin/true")
    monkeypatch.setattr(kvm, "run_guest", lambda _how, _time: kvm.KvmVerdict(usable=True, reason="ran"))
    closed = {"libvirt-qemu"}
    monkeypatch.setattr(kvm, "is_closed_to", lambda user: user in closed)
    verdict = kvm.probe(tmp_path / "kvm.json", user="libvirt-qemu")
    assert not verdict.usable
    assert "libvirt-qemu" in verdict.reason
    closed.clear()
    assert kvm.probe(tmp_path / "kvm.json", user="libvirt-qemu").usable, "what was remembered is out of date"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can ask for another user")
def test_whom_the_device_is_closed_to(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for path in (tmp_path, *tmp_path.parents):
        if "pytest-of-" in str(path):
            path.chmod(0o711)
    monkeypatch.setattr(kvm, "DEVICE", tmp_path / "kvm")
    assert not kvm.is_closed_to("nobody"), "there is none"
    kvm.DEVICE.touch(mode=0o600)
    assert kvm.is_closed_to("nobody")
    assert not kvm.is_closed_to("root")
    kvm.DEVICE.chmod(0o666)
    assert not kvm.is_closed_to("nobody")
