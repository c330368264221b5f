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
    filters: dict[str, list[Filter]]
    """Of each group that one of them is in."""
    members: dict[str, list[str]]
    """Of each group that one of those rules names."""


Rules = Callable[[], Ruleset]
"""What holds at the moment of the call."""


def ruleset(known: Known, plugged: Iterable[Vif]) -> Ruleset:
    vifs = [known.applied(vif) for vif in plugged]
    ids = sorted({group for vif in vifs if vif.port_security for group in vif.security_groups or ()})
    filters = {group: known.filters(group) for group in ids}
    remotes = sorted({remote for rules in filters.values() for remote in remotes_of(rules)})
    return Ruleset(vifs, filters, {remote: known.members(remote) for remote in remotes})
