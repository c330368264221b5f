"""Open vSwitch on this host: its integration bridge, as the two plugs that use it see it (switch.py)."""

from __future__ import annotations

from kilonova.network.host.switch.switch import Switch
from kilonova.network.host.switch.words import of_gate, of_port

__all__ = ["Switch", "of_gate", "of_port"]
