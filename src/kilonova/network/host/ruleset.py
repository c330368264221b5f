"""All that a host knows of what may pass its ports, at one moment, in nobody's language."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from kilonova.domain.network import Vif
from kilonova.domain.security_groups import Filter
from kilonova.network.host.knowledge import Known
from kilonova.network.host.security import remotes_of


class Ruleset(NamedTuple):
    vifs: list[Vif]
    """The host's ports, as they are by the latest word."""
    known: Known

    def filters(self, vifs: Iterable[Vif]) -> dict[str, list[Filter]]:
        """Of each group that one of these ports is in."""
        ids = {group for vif in vifs for group in vif.security_groups or ()}
        return {group: self.known.filters(group) for group in sorted(ids)}

    def members(self, filters: Iterable[list[Filter]]) -> dict[str, list[str]]:
        """Of each group that one of these rules names."""
        ids = {remote for rules in filters for remote in remotes_of(rules)}
        return {remote: self.known.members(remote) for remote in sorted(ids)}


Rules = Callable[[], Ruleset]
"""What holds at the moment of the call."""
