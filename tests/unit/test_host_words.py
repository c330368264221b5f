"""What a host may say is bounded where it is read: one that says more hurts nobody but itself."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from kilonova.bus.base import Dispatcher, Envelope, Unreadable
from kilonova.domain.messages import Activate, Finished, Nothing, Progress, Report

STEP = {"name": "create_disks", "started_at": 1.5}
WORD = {"host": "h1", "operation_id": "o", "epoch": 1, "steps": [STEP]}
REPORT = {
    "hypervisor_hostname": "h1",
    "hypervisor_type": "QEMU",
    "hypervisor_version": 9000000,
    "host_ip": "192.0.2.1",
    "total": {"vcpus": 4, "memory_mb": 4096, "disk_gb": 100},
    "cpu_info": {"model": "x"},
    "virt_type": "kvm",
    "architectures": ["x86_64"],
    "disk_available_least": -1,
}


def progress(message: Progress) -> Nothing:
    return Nothing()


def activate(message: Activate) -> Nothing:
    return Nothing()


def finished(message: Finished) -> Nothing:
    return Nothing()


def report(message: Report) -> Nothing:
    return Nothing()


CONDUCTOR = Dispatcher(
    "conductor", {function.__name__: function for function in (progress, activate, finished, report)}
)


def read(method: str, said: dict[str, Any]) -> Any:
    body = msgspec.Raw(msgspec.msgpack.encode(said))
    return CONDUCTOR.read(msgspec.msgpack.encode(Envelope(method, body, "req-1"))).argument


GOOD_STEPS = [
    STEP,
    {"name": "n" * 64, "started_at": 0, "finished_at": 2.0, "result": "Success"},
    STEP | {"result": "r" * 16, "message": "m" * 100_000, "details": "line\nline\n", "host": "unknown field"},
]
BAD_STEPS: list[dict[str, Any]] = [
    {"name": "a\0b"},
    {"name": "n" * 65},
    {"message": "a\0b"},
    {"details": "a\nb\0"},
    {"result": "\0"},
    {"result": "r" * 17},
    {"started_at": float("nan")},
    {"started_at": -1.0},
    {"finished_at": float("inf")},
    {"finished_at": 1e12},
]


@pytest.mark.parametrize("method", ["progress", "activate", "finished"])
def test_steps(method: str) -> None:
    word = WORD | {"kind": "build"}
    steps = read(method, word | {"steps": GOOD_STEPS}).steps
    assert [step.name for step in steps] == [step["name"] for step in GOOD_STEPS]
    for bad in BAD_STEPS:
        with pytest.raises(Unreadable):
            read(method, word | {"steps": [STEP, STEP | bad]})


@pytest.mark.parametrize(
    ("method", "bad"),
    [
        ("progress", {"task_state": "a\0"}),
        ("progress", {"task_state": "t" * 33}),
        ("progress", {"operation_id": "o\0"}),
        ("progress", {"operation_id": "o" * 37}),
        ("activate", {"operation_id": "o\0"}),
        ("finished", {"operation_id": "o\0"}),
        ("finished", {"error": "no\0"}),
        ("finished", {"details": "no\0"}),
        ("finished", {"host": "h\0"}),
        ("finished", {"host": "h" * 256}),
    ],
)
def test_words(method: str, bad: dict[str, Any]) -> None:
    word = WORD | {"kind": "build"}
    assert read(method, word).operation_id == "o"
    with pytest.raises(Unreadable):
        read(method, word | bad)


BAD_REPORTS: list[dict[str, Any]] = [
    {"hypervisor_hostname": "h\0"},
    {"hypervisor_hostname": "h" * 256},
    {"hypervisor_type": "t" * 33},
    {"hypervisor_version": 2**31},
    {"virt_type": "v" * 17},
    {"host_ip": "i" * 65},
    {"total": {"vcpus": 2**63, "memory_mb": 1, "disk_gb": 1}},
    {"total": {"vcpus": 1, "memory_mb": -1, "disk_gb": 1}},
    {"total": {"vcpus": 1, "memory_mb": 1, "disk_gb": 2**62}},
    {"disk_available_least": 2**63},
]


@pytest.mark.parametrize("bad", BAD_REPORTS)
def test_reports(bad: dict[str, Any]) -> None:
    assert read("report", {"host": "h1", "report": REPORT}).report.hypervisor_version == 9000000
    with pytest.raises(Unreadable):
        read("report", {"host": "h1", "report": REPORT | bad})


def test_a_report_is_what_it_was_on_the_wire() -> None:
    """Agents and conductors of two releases talk to each other."""
    told = read("report", {"host": "h1", "report": REPORT}).report
    new = {"plug": "bridge", "follows_network": False, "tunnel_address": None, "failed_routers": []}
    assert msgspec.to_builtins(told) == REPORT | new
