"""The addresses of a server: GET /servers/{id}/ips, /ips/{network}, and their part in the server's view."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from kilonova.api.compute import policy, queries
from kilonova.api.compute.state import ComputeAPI
from kilonova.api.http import Reply, Request, Route
from kilonova.domain.errors import NotFound
from kilonova.store import server_lists


class _Address(msgspec.Struct):
    ip: str


class _Nic(msgspec.Struct):
    """What the API shows of a stored Vif; decoding skips the rest."""

    network_name: str
    mac: str
    addresses: list[_Address]
    floating_ips: dict[str, list[str]] = {}

    def shown(self) -> Iterator[tuple[str, str]]:
        """(address, kind), each fixed one before those floating ones that lead to it."""
        for address in self.addresses:
            yield address.ip, "fixed"
            for floating in self.floating_ips.get(address.ip, ()):
                yield floating, "floating"


_nics = msgspec.json.Decoder(list[_Nic]).decode


def addresses(vifs: str) -> dict[str, list[dict[str, Any]]]:
    """Network name → [{version, addr}], of the text of the ``vifs`` column."""
    shown: dict[str, list[dict[str, Any]]] = {}
    for nic in _nics(vifs):
        own = shown.setdefault(nic.network_name, [])
        own += [{"version": _version(ip), "addr": ip} for ip, _ in nic.shown()]
    return shown


def extended_addresses(vifs: str) -> dict[str, list[dict[str, Any]]]:
    """The same with the kind and the NIC of each address."""
    shown: dict[str, list[dict[str, Any]]] = {}
    for nic in _nics(vifs):
        own = shown.setdefault(nic.network_name, [])
        own += [
            {
                "version": _version(ip),
                "addr": ip,
                "OS-EXT-IPS:type": kind,
                "OS-EXT-IPS-MAC:mac_addr": nic.mac,
            }
            for ip, kind in nic.shown()
        ]
    return shown


def all_ips(vifs: str) -> list[str]:
    return [address.ip for nic in _nics(vifs) for address in nic.addresses]


def listed(api: ComputeAPI, request: Request, server_id: str) -> Reply:
    queries.check(request)
    return Reply(body={"addresses": _of(api, request, server_id)})


def show(api: ComputeAPI, request: Request, server_id: str, network: str) -> Reply:
    queries.check(request)
    found = _of(api, request, server_id)
    if network not in found:
        raise NotFound("Instance is not a member of specified network")
    return Reply(body={network: found[network]})


def _of(api: ComputeAPI, request: Request, server_id: str) -> dict[str, list[dict[str, Any]]]:
    with api.db.read() as conn:
        owner = policy.owner_filter(request.context)
        row = server_lists.get(conn, server_id, owner, server_lists.ADDRESSES)
    return addresses(row.vifs)


def _version(address: str) -> int:
    return 6 if ":" in address else 4


ROUTES = [
    Route("GET", "/servers/{server_id}/ips", listed),
    Route("GET", "/servers/{server_id}/ips/{network}", show),
]
