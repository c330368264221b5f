"""The machine itself: programs, rights, KVM."""

from __future__ import annotations

import os
import platform

from kilonova.cli.doctor.check import Check, Where, apt
from kilonova.virt.libvirt import embed, kvm
from kilonova.virt.libvirt.needs import NEEDS, Lacking, Need


def _python(_: Where) -> str:
    return platform.python_version()  # one that is too old does not get this far


def _root(_: Where) -> str:
    if os.geteuid() != 0:
        raise Lacking(f"user {os.geteuid()}")
    return "yes"


def _kvm(_: Where) -> str:
    verdict = kvm.probe(user=embed.qemu_user())
    if not verdict.usable:
        raise Lacking(verdict.reason)
    return verdict.reason or "runs a guest"


def _check(need: Need) -> Check:
    return Check(need.name, lambda _: need.look(), need.meaning, need.command)


CHECKS = (
    Check("Python", _python, "3.11 or later is needed", apt("python3")),
    Check("root", _root, "only root may make networks for guests", "sudo -s"),
    *map(_check, NEEDS),
    Check("KVM", _kvm, "guests are emulated: they work, and are slower", "", needed=False),
)
