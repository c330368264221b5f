"""The two protocols of the network: the service that hands out ports, and the part on each host.

The service (built in, later a real Neutron) runs where the database is. The host part runs in the compute
agent, gets all it needs as data, and holds no database.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from kilonova.domain.context import RequestContext
from kilonova.domain.network import Vif
from kilonova.domain.servers import GuestMetadata, RequestedNetwork


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
    ) -> list[Vif]:
        """Ports for a server, bound to ``host``, in the order asked for. Called again it gives the same
        ports (and binds them to ``host``). BuildAborted if no address is left."""

    def deallocate_for_instance(self, server_id: str) -> None:
        """Ports that the build made are gone; ports of the user are unbound. Safe to call again."""

    def port_status(self, server_ids: Sequence[str], active: bool) -> None:
        """Whether the ports of these servers are plugged, as their hosts found. One call for all that a
        transaction changes, before it changes a server: it locks what others lock too."""

    def vifs(self, server_ids: list[str]) -> dict[str, list[Vif]]:
        """The NICs of these servers, one query for all."""


MetadataLookup = Callable[[str, str], GuestMetadata | None]
"""(network id, source address) → what to tell the guest that asks; None if nobody has the address."""


class HostNetwork(Protocol):
    """The network on one host. Every method looks first and does what is missing.

    BuildFailed says which device or rule could not be made.
    """

    def start(self, metadata: MetadataLookup) -> None:
        """Adopt what an earlier run left: its namespaces, DHCP servers, rules; begin to answer metadata."""

    def stop(self) -> None:
        """Stop what lives in this process. Bridges, taps and DHCP stay: guests go on."""

    def plug(self, vif: Vif) -> None:
        """The guest's tap exists on its network's bridge, with anti-spoofing; DHCP knows it; the network's
        namespace (DHCP, metadata, gateway, NAT) is there. Returns when all this works."""

    def unplug(self, port_id: str) -> None:
        """All of plug() is gone; with a network's last port, all of the network."""

    def plugged(self) -> dict[str, Vif]:
        """Port id → vif of every port that is on this host, read back from the host."""

    def repair(self) -> list[str]:
        """Look whether everything of plugged() still works (a DHCP server that died, a rule that was
        flushed) and mend it; a line for each thing mended."""
