"""The reaper: takes daemons that it adopted, and nothing of anybody else in the process."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.system

# In a process of its own: being a subreaper is for life.
PROGRAM = """
import os, subprocess, time
from kilonova.virt.libvirt.reaper import adopt_guests

adopt_guests()
neglected = subprocess.Popen(["true"])  # nobody waits for it: a zombie that stays
time.sleep(0.2)
named = os.path.join(os.environ["FOLDER"], "qemu-system-x")
os.symlink("/bin/sleep", named)
detach = f"import os, sys; os.fork() and os._exit(0); os.setsid(); os.execv({named!r}, [{named!r}, '0.3'])"
subprocess.run(["python3", "-c", detach], check=True)
own = subprocess.Popen([named, "0.3"])

def zombies():
    found = []
    for task in os.listdir("/proc/self/task"):
        for pid in open(f"/proc/self/task/{task}/children").read().split():
            stat = open(f"/proc/{pid}/stat").read()
            found += [pid] if stat[stat.rindex(")") + 2] == "Z" else []
    return found

time.sleep(1.0)
print("adopted ones left:", [z for z in zombies() if int(z) not in (neglected.pid, own.pid)])
print("own:", own.wait(), "neglected:", neglected.wait())
"""


def test_adopted_daemons_are_reaped_and_others_left(tmp_path: object) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={"FOLDER": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout.splitlines() == ["adopted ones left: []", "own: 0 neglected: 0"], done.stderr
