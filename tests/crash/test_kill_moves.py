"""kill -9 between any two steps of a volume's way to another backend: it is there once, whole."""

from __future__ import annotations

import contextlib
from pathlib import Path

from tests.running import CUT_OFF, Up, until

POINTS = (
    "volume_move.accept.after",
    "volume_move.empty.after",
    "volume_move.copy.after",
    "volume_move.end.after",
    "volume_clear.take.after",
    "volume_clear.clear.after",
)
BACKEND = '[volume.backends.{name}]\ndriver = "file"\npath = "{folder}"\n'
VOLUMES, TYPES = "/volume/v3/volumes", "/volume/v3/types"


def test_a_volume_that_moves_is_always_there_once(tmp_path: Path) -> None:
    """One volume, from one backend to the other and back, each time cut off a step later."""
    up, folders = Up(tmp_path / "state"), {name: tmp_path / name for name in ("one", "two")}
    backends = "".join(BACKEND.format(name=name, folder=folder) for name, folder in folders.items())
    up.start(backends)
    try:
        for name in folders:
            asked = {"name": name, "extra_specs": {"volume_backend_name": name}}
            assert up.ask("POST", TYPES, {"volume_type": asked})[0] == 200
        made = up.ask("POST", VOLUMES, {"volume": {"size": 1, "volume_type": "one"}})[1]["volume"]["id"]
        path = f"{VOLUMES}/{made}"
        until(lambda: up.ask("GET", path)[1]["volume"]["status"] == "available", 60, "a volume")
        file = f"volume-{made}"
        with (folders["one"] / file).open("r+b") as disk:
            disk.write(b"data")
        here = "one"
        for point in POINTS:
            there = "two" if here == "one" else "one"
            assert up.stop() == 0
            up.start(f'{backends}[faults]\nkill_at = "{point}"\n')
            retype = {"os-retype": {"new_type": there, "migration_policy": "on-demand"}}
            with contextlib.suppress(*CUT_OFF):
                status, answer = up.ask("POST", f"{path}/action", retype)
                assert status == 202, answer
            assert up.wait() == -9, f"nothing reached {point}"
            up.start(backends)
            until(lambda: list(folders[here].iterdir()) == [], 60, f"nothing left after {point}")  # noqa: B023
            assert [one.name for one in folders[there].iterdir()] == [file]
            with (folders[there] / file).open("rb") as disk:
                assert disk.read(8) == b"data" + bytes(4)
            shown = up.ask("GET", path)[1]["volume"]
            assert (shown["status"], shown["volume_type"]) == ("available", there)
            assert shown["migration_status"] == "success"
            until(lambda: up.unexplained() == [], 60, "all to be explained")
            here = there
    finally:
        up.kill()
