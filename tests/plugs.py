"""A host for each kind of plug: a network and a switch of its own, and a look at what is left."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
from tests.host_oracle import own_host
from tests.openvswitch import OWN_DEVICE, OpenVSwitch
from tests.system.host_network.lab import Lab, eventually, snapshot

from kilonova.config import Config, Network
from kilonova.domain.network import PlugKind

KINDS: tuple[PlugKind, ...] = ("bridge", "ovs-hybrid", "ovs")


@contextmanager
def host_with(kind: PlugKind, *, leak_check: bool = True) -> Iterator[tuple[Path, OpenVSwitch | None]]:
    """A folder, and the switch that runs. Afterwards nothing may be left."""
    folder = Path(tempfile.mkdtemp(prefix="plug-"))
    folder.chmod(0o711)
    switch = None
    with own_host():
        before = snapshot()
        try:
            if kind != "bridge":
                # Only where a tap is on the switch must that take over checksums.
                switch = OpenVSwitch(folder / "ovs", segments=kind == "ovs").start()
            yield folder, switch
            if leak_check:
                left_nothing(before)
        finally:
            if switch:
                switch.kill()
            shutil.rmtree(folder)


def left_nothing(before: dict[str, object]) -> None:
    """The switch removes its own device a moment later."""
    with suppress(AssertionError):
        eventually(lambda: _without_datapath(snapshot()) == before)
    assert _without_datapath(snapshot()) == before


def _without_datapath(seen: dict[str, object]) -> dict[str, object]:
    links, addresses = seen["links"], seen["addresses"]
    assert isinstance(links, list)
    assert isinstance(addresses, str)
    kept = [line for line in addresses.splitlines(keepends=True) if not line.startswith(OWN_DEVICE)]
    return seen | {"links": [link for link in links if link != OWN_DEVICE], "addresses": "".join(kept)}


def config_of(kind: PlugKind, switch: OpenVSwitch | None) -> Config:
    options = Network(plug=kind)
    if switch is not None:
        options = msgspec.structs.replace(options, ovsdb_connection=switch.connection)
    return Config(network=options)


class PlugLab(Lab):
    def __init__(self, kind: PlugKind, folder: Path, switch: OpenVSwitch | None) -> None:
        self.kind = kind
        self._switch = switch
        super().__init__(folder, config_of(kind, switch))

    @property
    def switch(self) -> OpenVSwitch:
        assert self._switch is not None
        return self._switch

    @property
    def control(self) -> str:
        """Where br-int is asked for its flows."""
        return f"unix:{self.switch.folder / 'br-int.mgmt'}"


@contextmanager
def plug_lab(kind: PlugKind) -> Iterator[PlugLab]:
    with host_with(kind) as (folder, switch):
        lab = PlugLab(kind, folder, switch)
        try:
            yield lab
        finally:
            lab.close()
