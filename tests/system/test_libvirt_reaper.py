"""The reaper: takes daemons that it adopted, and nothing of anybody else in the process."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.system

# In a process of its own: being a subreaper is for life.
PROGRAM = """
import contextlib, os, subprocess, time
from kilonova.virt.libvirt.reaper import adopt_guests

adopt_guests()
neglected = subprocess.Popen(["true"])  # nobody waits for it: a zombie that stays
named = os.path.join(os.environ["FOLDER"], "qemu-system-x")
os.symlink("/bin/sleep", named)
detach = f"import os, sys; os.fork() and os._exit(0); os.setsid(); os.execv({named!r}, [{named!r}, '0.5'])"
own = subprocess.Popen([named, "0"])
ours = {own.pid: "Z", neglected.pid: "Z"}

def children():
    found = {}
    for task in os.listdir("/proc/self/task"):
        for pid in open(f"/proc/self/task/{task}/children").read().split():
            with contextlib.suppress(FileNotFoundError):
                stat = open(f"/proc/{pid}/stat").read()
                found[int(pid)] = stat[stat.rindex(")") + 2]
    return found

while children() != ours:
    time.sleep(0.01)
subprocess.run(["python3", "-c", detach], check=True)
while not children().keys() <= ours.keys():
    time.sleep(0.01)
print("left:", children() == ours)
"""


def test_adopted_daemons_are_reaped_and_others_left(tmp_path: object) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={"FOLDER": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout == "left: True\n", done.stderr
