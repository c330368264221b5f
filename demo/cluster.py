"""make demo-cluster: a cluster of four machines on this one, killed in parts while it builds.

This is the outside: it puts the whole demo (cluster_story.py) into namespaces of its own, "the lab", where it
can make networks, mounts and processes that nobody else sees. When the lab's first process ends, for whatever
reason, the kernel ends and removes all that was in it. So this part has little to clean up, and says what it
found.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from lab import STATE
from terminal import say

PROJECT = Path(__file__).resolve().parent.parent
IMAGE = PROJECT / "build/guest.qcow2"
END_TIMEOUT = 20.0
"""Seconds for the kernel to end a lab."""


def main() -> None:
    check_machine()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ended from outside: as for Ctrl-C
    started = time.monotonic()
    shutil.rmtree(STATE, ignore_errors=True)
    STATE.mkdir(parents=True, mode=0o711)
    before = seen_outside()
    lab = subprocess.Popen(lab_command(), start_new_session=True, stdin=subprocess.DEVNULL)
    try:
        status = lab.wait()
    except KeyboardInterrupt:
        say("\nInterrupted: ending the lab and all that is in it.")
        status = 130
    lab.kill()
    lab.wait()
    left = wait_for_the_end(before)
    if left:
        say("Left behind: " + ", ".join(left))
        sys.exit(status or 1)
    if status in (0, 130):
        shutil.rmtree(STATE)
        say("Nothing is left: no process, namespace, device, rule or file.")
    else:
        say(f"Nothing is left but the logs, in {STATE}.")
    say(f"{time.monotonic() - started:.0f} s.")
    sys.exit(status)


def check_machine() -> None:
    if os.geteuid() != 0:
        raise SystemExit(
            "The demo makes networks and namespaces, which only root may do: sudo make demo-cluster"
        )
    if not IMAGE.exists():
        raise SystemExit(f"{IMAGE} is missing: make demo-cluster builds it (tools/mkguest)")


def lab_command() -> list[str]:
    """The story in namespaces of its own; it dies with this process, and with it all that it started."""
    with_us = ["setpriv", "--pdeathsig", "KILL"]
    apart = ["--net", "--mount", "--uts", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"]
    story = Path(__file__).with_name("cluster_story.py")
    return [*with_us, "unshare", *apart, sys.executable, str(story)]


def seen_outside() -> set[str]:
    """What the demo could leave on this machine by mistake."""
    seen = {f"device {link.name}" for link in Path("/sys/class/net").iterdir()}
    seen |= {f"network namespace {space.name}" for space in Path("/run/netns").glob("*")}
    tables = subprocess.run(
        ["nft", "list", "tables"], capture_output=True, text=True, timeout=30, check=False
    )
    seen |= {f"nft {table}" for table in tables.stdout.splitlines()}
    seen |= {f"mount {line.split()[4]}" for line in Path("/proc/self/mountinfo").read_text().splitlines()}
    forwarding = Path("/proc/sys/net/ipv4/ip_forward").read_text().strip()
    return seen | processes() | {f"net.ipv4.ip_forward = {forwarding}"}


def processes() -> set[str]:
    """Those of this demo: its folder is in their command lines. A zombie has none."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if os.fsencode(STATE) in line or b"cluster_story.py" in line:
            found.add(f"process {folder.name}")
    return found


def wait_for_the_end(before: set[str]) -> list[str]:
    """What is left, once the kernel has had time for it. What others did meanwhile is theirs."""
    end = time.monotonic() + END_TIMEOUT
    while processes() - before and time.monotonic() < end:
        time.sleep(0.1)
    return sorted(line for line in seen_outside() - before if is_ours(line))


def is_ours(line: str) -> bool:
    return line.startswith("process") or any(mark in line for mark in ("lab", "kilonova", str(STATE)))


if __name__ == "__main__":
    main()
