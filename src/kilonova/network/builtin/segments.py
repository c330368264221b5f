"""Which VXLAN identifier a network has. Every function runs inside the caller's transaction."""

from __future__ import annotations

import secrets

import sqlalchemy as sa
from msgspec import UNSET

from kilonova import log
from kilonova.config import Config, vni_range
from kilonova.domain.context import RequestContext
from kilonova.domain.network import EXTERNAL_PHYSICAL_NETWORK, provider_of
from kilonova.network.builtin import policy
from kilonova.network.builtin.errors import InvalidInput, NoNetworkAvailable, TunnelIdInUse
from kilonova.network.builtin.requests import NetworkCreate, NetworkUpdate
from kilonova.store import segments as store

_log = log.get("network.segments")


def of_new(conn: sa.Connection, config: Config, context: RequestContext, body: NetworkCreate) -> int:
    """The identifier of a network that is made by this body: what an admin asked for, or a free one."""
    _check(context, body)
    asked = body.provider_segmentation_id
    store.lock(conn)
    if asked is UNSET or asked is None:
        return _free(conn, config)
    if store.taken(conn, asked):
        raise TunnelIdInUse(f"Unable to create the network. The tunnel ID {asked} is in use.")
    return asked


def ensure(conn: sa.Connection, config: Config, network_ids: list[str]) -> None:
    """Networks of a release without identifiers have one, as long as there are any."""
    store.lock(conn)
    without = [key for key, number in store.of_networks(conn, network_ids).items() if number is None]
    for network_id in without:
        try:
            number = _free(conn, config)
        except NoNetworkAvailable:
            _log.warning("no_identifier_left", networks=without, vni_range=config.network.vni_range)
            return
        store.give(conn, network_id, number)


def refuse(body: NetworkUpdate) -> None:
    """They stay what they are: hosts are using them."""
    if any(value is not UNSET for value in _asked(body).values()):
        raise InvalidInput("Plugin does not support updating provider attributes")


def _free(conn: sa.Connection, config: Config) -> int:
    """By chance: the identifier of a network that is gone comes again as late as may be, when no host can be
    left that was away and knows nothing of it."""
    first, last = vni_range(config.network.vni_range)
    start = first + secrets.randbelow(last - first + 1)
    found = store.first_free(conn, start, last) or store.first_free(conn, first, last)
    if found is None:
        raise NoNetworkAvailable(
            "Unable to create the network. No tenant network is available for allocation."
        )
    return found


def _check(context: RequestContext, body: NetworkCreate) -> None:
    """An admin may say what would be so anyway, and choose the identifier."""
    asked = {name: value for name, value in _asked(body).items() if value is not UNSET}
    for name in asked:
        policy.admin_only(context, f"rule:create_network:{name}")
    external = body.router_external is True
    wanted = provider_of(external, None)
    kind, physical = (wanted[f"provider:{name}"] for name in ("network_type", "physical_network"))
    if asked.get("provider:network_type", kind) != kind:
        what = "external networks are flat" if external else "networks are vxlan"
        raise InvalidInput(f"provider:network_type {asked['provider:network_type']}: {what} here")
    if asked.get("provider:physical_network", physical) != physical:
        what = f"it is {EXTERNAL_PHYSICAL_NETWORK} here" if external else "a vxlan network has none"
        raise InvalidInput(f"provider:physical_network {asked['provider:physical_network']}: {what}")
    if external and asked.get("provider:segmentation_id") is not None:
        raise InvalidInput("provider:segmentation_id: a flat network has none")


def _asked(body: NetworkUpdate) -> dict[str, object]:
    return {
        "provider:network_type": body.provider_network_type,
        "provider:physical_network": body.provider_physical_network,
        "provider:segmentation_id": body.provider_segmentation_id,
    }
