"""The two protocols of the network: the service that hands out ports, and the part on each host.

The service (built in, later a real Neutron) runs where the database is. The host part runs in the compute
agent, gets all it needs as data, and holds no database.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from kilonova.domain.context import RequestContext
from kilonova.domain.errors import Unavailable
from kilonova.domain.network import NetworkState, PlugKind, Vif
from kilonova.domain.routers import HostRouters
from kilonova.domain.security_groups import SecurityGroup, SecurityGroupRule
from kilonova.domain.servers import DevicePlace, GuestMetadata, RequestedNetwork


class ServerGroup(msgspec.Struct, frozen=True, kw_only=True):
    """A security group that a server's NIC is in. ``remotes``: the groups that its rules name, by id."""

    id: str
    name: str
    project_id: str
    description: str
    rules: list[SecurityGroupRule]
    remotes: dict[str, SecurityGroup]


class Seat(msgspec.Struct, frozen=True, kw_only=True):
    """A server that takes ports, and where it is."""

    server_id: str
    project_id: str
    hostname: str
    host: str
    availability_zone: str
    security_groups: Sequence[str] = ()
    """Of the ports that are made for it: ids, or "default"; empty means that one too."""

    @property
    def device_owner(self) -> str:
        return f"compute:{self.availability_zone}"


class NetworkService(Protocol):
    """What the control plane asks of the network service."""

    def validate(
        self, context: RequestContext, requested: list[RequestedNetwork], count: int
    ) -> list[RequestedNetwork]:
        """The request, checked for a POST of ``count`` servers: networks exist and are the project's or
        shared, ports are free, fixed addresses fit. BadRequest, NotFound, Conflict or QuotaExceeded else."""

    def auto(self, context: RequestContext) -> list[RequestedNetwork]:
        """What ``networks: auto`` means for this project: its only network. Conflict if there are several;
        BadRequest if none can be had."""

    def allocate_for_instance(
        self,
        server_id: str,
        project_id: str,
        hostname: str,
        host: str,
        availability_zone: str,
        requested: list[RequestedNetwork],
        security_groups: Sequence[str] = (),
    ) -> list[Vif]:
        """Ports for a server, in these security groups (none: the project's default one), bound to ``host``,
        in the order asked for. Called again it gives the same
        ports (and binds them to ``host``). BuildAborted if no address is left."""

    def deallocate_for_instance(self, server_id: str) -> None:
        """Ports that the build made are gone; ports of the user are unbound. Safe to call again."""

    def bind_for_instance(self, server_id: str, host: str) -> list[Vif]:
        """All the ports that the server has are on that host now, where they are not plugged yet; on none, if
        that is empty. Safe to call again."""

    def state(self, host: str, port_ids: Sequence[str], network_ids: Sequence[str] = ()) -> NetworkState:
        """What that host must know of those of the ports that are bound to it, and where else the networks of
        these, and those networks, are."""

    def host_moved(self, host: str) -> None:
        """The host takes tunnels at another address than before, or begins or ceases to take them: those who
        share networks with it are told."""

    def host_routers(self, host: str) -> HostRouters:
        """The routers of that host, and the gateways that are routers' on the networks that it serves."""

    def rehome_routers(self, silence: float) -> None:
        """Routers that no host has, or one that was silent for so many seconds, are given to one that is
        up, if there is one."""

    def security_groups(self, context: RequestContext, names: Sequence[str]) -> list[str]:
        """What to say to allocate_for_instance() for groups of these names or ids. BadRequest: there is no
        such group; Conflict: several have the name."""

    def add_security_group(self, context: RequestContext, server_id: str, name: str) -> None:
        """The server's NICs are in that group too. NotFound, Conflict, BadRequest in Nova's words."""

    def remove_security_group(self, context: RequestContext, server_id: str, name: str) -> None:
        """The server's NICs are in that group no more."""

    def security_groups_of_server(self, server_id: str) -> list[ServerGroup]:
        """Each group that a NIC of the server is in."""

    def security_group_names(self, server_ids: Sequence[str]) -> dict[str, list[str]]:
        """Names of the groups of each NIC; one query for all. Servers without groups are missing."""

    def port_status(self, server_ids: Sequence[str], active: bool) -> None:
        """Whether the ports of these servers are plugged, as their hosts found. One call for all that a
        transaction changes, before it changes a server: it locks what others lock too."""

    def vifs(self, server_ids: list[str]) -> dict[str, list[Vif]]:
        """The NICs of these servers, one query for all."""

    def attach(self, context: RequestContext, seat: Seat, asked: RequestedNetwork) -> str:
        """One more NIC for a server, after those it has: the port's id. With neither network nor port in
        ``asked`` it is on the project's only network. NotFound, BadRequest, Conflict or QuotaExceeded."""

    def detach(self, server_id: str, port_id: str) -> None:
        """The port is none of the server's: gone if it was made for the server, free if the user made it.
        Safe to call again."""

    def add_fixed_ip(self, server_id: str, network_id: str) -> None:
        """One more address for the server's first port there. BadRequest if there is none to be had."""

    def remove_fixed_ip(self, server_id: str, address: str) -> None:
        """BadRequest if no port of the server has it."""


MetadataLookup = Callable[[str, str], GuestMetadata | None]
"""(network id, source address) → what to tell the guest that asks; None if nobody has the address."""


def _no_vendor_data(_about: GuestMetadata) -> dict[str, Any]:
    return {}


def _no_place(_about: GuestMetadata, _password: str) -> None:
    raise Unavailable("There is nobody who keeps passwords.")


class MetadataDeeds(NamedTuple):
    """What the metadata service does for a guest beside telling what is known of it.

    ``vendor_data``: what the operator's services say of it, which takes time. ``places``: where its devices
    are in it. ``keep_password``: what it says; Conflict if it has said one.
    """

    vendor_data: Callable[[GuestMetadata], dict[str, Any]] = _no_vendor_data
    keep_password: Callable[[GuestMetadata, str], None] = _no_place
    places: Callable[[GuestMetadata], dict[str, DevicePlace]] = lambda _guest: {}


NO_DEEDS = MetadataDeeds()


class HostNetwork(Protocol):
    """The network on one host. Every method looks first and does what is missing.

    BuildFailed says which device or rule could not be made.
    """

    plug_kind: PlugKind
    """How guests are joined to their networks; ports show it."""

    tunnel_address: str | None
    """Where its networks take tunnels from other hosts; None: they take none."""

    def start(self, metadata: MetadataLookup, deeds: MetadataDeeds = NO_DEEDS) -> None:
        """Adopt what an earlier run left: its namespaces, DHCP servers, rules; begin to answer metadata."""

    def stop(self) -> None:
        """Stop what lives in this process. Bridges, taps and DHCP stay: guests go on."""

    @property
    def follows(self) -> bool:
        """Whether it wants to be told, by refresh(), what changes of its ports."""

    def refresh(self, state: NetworkState, asked: float) -> None:
        """From now on this holds, for ports that are plugged and for ports that will be: security groups and
        their members, address pairs, port security. ``asked``: when that was asked for (time.monotonic());
        what was asked for later is kept. One transaction: at no moment passes what neither the old nor the
        new rules allow; connections that the new ones allow go on, others end. And its networks are joined to
        those other hosts."""

    def networks(self) -> set[str]:
        """Ids of the networks that are on this host, by a guest or a router."""

    def users(self, ids: set[str]) -> set[str]:
        """The plugged ports that use one of these security groups, as their own or in a rule."""

    def plug(self, vif: Vif) -> None:
        """The guest's tap exists on its network's bridge, with anti-spoofing; DHCP knows it; the network's
        namespace (DHCP, metadata, gateway, NAT) is there. Returns when all this works."""

    def unplug(self, port_id: str) -> None:
        """All of plug() is gone; with a network's last port, all of the network."""

    def plugged(self) -> dict[str, Vif]:
        """Port id → vif of every port that is on this host, read back from the host."""

    def apply_routers(self, wanted: HostRouters) -> list[str]:
        """Those are the routers of this host, all of them, and the gateways that are routers'; a line for
        each thing that changed. What fails for one router is logged, and tried again by repair()."""

    def failed_routers(self) -> list[str]:
        """Ids of those that could not be made for so long that another host may do better."""

    def on_change(self, tell: Callable[[], None]) -> None:
        """``tell()`` is called, in another thread, when something on the host is not as repair() left it, by
        whoever's act, as far as the host says so itself; maybe many times before the next repair(). It must
        be quick."""

    def repair(self) -> list[str]:
        """Look whether everything of plugged() still works (a DHCP server that died, a rule that was
        flushed) and mend it; a line for each thing mended."""
