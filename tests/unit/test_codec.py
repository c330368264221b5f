"""Types are looked at by one thread at a time: msgspec would take the process down otherwise."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys, threading
import msgspec
from kilonova.domain import codec
sys.setswitchinterval(1e-6)

def family(number):
    inner = msgspec.defstruct(f"Inner{number}", [(f"f{i}", int | str | None, None) for i in range(40)])
    return msgspec.defstruct(f"Outer{number}", [(f"g{i}", list[inner] | None, None) for i in range(20)])

kinds = [family(number) for number in range(60)]
gate = threading.Barrier(8)

def work():
    for kind in kinds:
        gate.wait()
        codec.DECODE(b'{"g1": [{"f3": 1}]}', kind)

threads = [threading.Thread(target=work) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print("alive")
"""


def test_many_threads_meet_new_types_at_once() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.replace("DECODE", "from_json")],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr
