"""What this host must remember of its routers across a kill -9.

routers/<router id>.json   the state, and all that was made for it: written before anything of the
                           state is made, without what went once it is gone
gateways.json              the gateways' addresses that are routers', here or elsewhere
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from kilonova import log
from kilonova.domain import codec
from kilonova.domain.routers import RouterState
from kilonova.network.host import records

_log = log.get("network.routers")


class Record(msgspec.Struct, frozen=True, kw_only=True):
    state: RouterState
    networks: list[str] = []
    """Projects' networks that it may be joined to."""
    external: list[str] = []
    """Names of bridges of external networks that it may have made."""


class RouterRecords:
    def __init__(self, folder: Path) -> None:
        self._folder = folder / "routers"
        self._gateways = folder / "gateways.json"
        self._folder.mkdir(mode=0o755, parents=True, exist_ok=True)

    def load(self) -> dict[str, Record]:
        found = {}
        for path in sorted(self._folder.iterdir()):
            if path.name.startswith("."):  # a kill came between write()'s two halves
                path.unlink()
                continue
            try:
                record = codec.from_json(path.read_bytes(), Record)
            except msgspec.MsgspecError as error:
                # Only a power cut does this, and it took the devices too.
                _log.warning("unreadable router record removed", path=str(path), error=str(error))
                path.unlink()
                continue
            found[record.state.id] = record
        return found

    def put(self, record: Record) -> None:
        records.write(self._folder / f"{record.state.id}.json", msgspec.json.encode(record))

    def remove(self, router_id: str) -> None:
        (self._folder / f"{router_id}.json").unlink(missing_ok=True)

    def gateways(self) -> dict[str, list[str]]:
        content = records.read(self._gateways)
        try:
            return codec.from_json(content, dict[str, list[str]]) if content else {}
        except msgspec.MsgspecError:
            return {}

    def put_gateways(self, gateways: dict[str, list[str]]) -> None:
        records.write(self._gateways, msgspec.json.encode(gateways))
