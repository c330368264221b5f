"""The decision itself: filter, weigh, order. Pure: hosts in, hosts out, best first."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from kilonova import metrics
from kilonova.domain.errors import NoValidHost
from kilonova.domain.messages import SelectDestinations
from kilonova.scheduler.hosts import HostState
from kilonova.scheduler.rules import Filter, Hosts, Weigher

_rejected = metrics.Counter("scheduler_hosts_rejected", "Hosts turned away, by the filter.", ("filter",))


def decide(
    request: SelectDestinations,
    hosts: Hosts,
    filters: Sequence[Filter],
    weighers: Sequence[Weigher],
    multipliers: Mapping[str, float],
) -> list[HostState]:
    """Every host that may take the server, best first. NoValidHost counts what each rule turned away."""
    left = list(hosts)
    turned_away: list[dict[str, object]] = []
    for rule in filters:
        passed = rule.passing(request, left)
        if len(passed) != len(left):
            turned_away.append(_reason(rule, request, left, passed))
            _rejected.add(rule.name, amount=len(left) - len(passed))
        if not passed:
            raise _no_valid_host(len(hosts), turned_away)
        left = passed
    if not left:
        raise _no_valid_host(0, turned_away)
    return _ordered(left, weighers, multipliers)


def turned_away(error: NoValidHost, rule: Filter) -> bool:
    """Whether any host was, by this rule."""
    told = error.details.get("filters", []) if isinstance(error.details, dict) else []
    return any(reason["filter"] == rule.name for reason in told)


def _ordered(
    hosts: list[HostState], weighers: Sequence[Weigher], multipliers: Mapping[str, float]
) -> list[HostState]:
    """Best first; equal hosts in random order, so that several schedulers do not all choose the same."""
    if len(hosts) == 1:
        return hosts
    random.shuffle(hosts)
    totals = [0.0] * len(hosts)
    for weigher in weighers:
        weights = weigher.weigh(hosts)
        low, high = min(weights), max(weights)
        if low == high:
            continue
        factor = multipliers.get(weigher.name, weigher.multiplier) / (high - low)
        totals = [total + (weight - low) * factor for total, weight in zip(totals, weights, strict=True)]
    order = sorted(range(len(hosts)), key=totals.__getitem__, reverse=True)
    return [hosts[index] for index in order]


def _reason(
    rule: Filter, request: SelectDestinations, before: Hosts, after: Sequence[HostState]
) -> dict[str, object]:
    kept = set(after)
    return {
        "filter": rule.name,
        "turned_away": len(before) - len(after),
        "needed": rule.needed(request),
        "found": rule.found(before),
        "hosts": sorted(host.host for host in before if host not in kept)[:20],
    }


def _no_valid_host(total: int, turned_away: list[dict[str, object]]) -> NoValidHost:
    """The message is for the owner and names no host; the details, for the admin, do."""
    if not turned_away:
        return NoValidHost("No valid host was found. There are no compute hosts.", {"hosts": 0})
    parts = []
    for rule in turned_away:
        needed = f", needed {rule['needed']}" if rule["needed"] else ""
        found = f", found {rule['found']}" if rule["found"] else ""
        parts.append(f"{rule['filter']} turned away {rule['turned_away']}{needed}{found}")
    message = f"No valid host was found. Of {total} hosts: {'; '.join(parts)}."
    return NoValidHost(message, {"hosts": total, "filters": turned_away})
