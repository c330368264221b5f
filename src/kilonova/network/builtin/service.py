"""BuiltinNetwork: what the control plane, the API and whoever wires the program hold of this service."""

from __future__ import annotations

from collections.abc import Sequence

from kilonova.config import Config
from kilonova.domain.context import RequestContext
from kilonova.domain.errors import BadRequest, Conflict
from kilonova.domain.network import Vif
from kilonova.domain.servers import RequestedNetwork
from kilonova.network.builtin import instances
from kilonova.network.builtin.requested import validate
from kilonova.store import networks, ports
from kilonova.store.database import Database
from kilonova.store.repeat import repeated


class BuiltinNetwork:
    """Implements network.base.NetworkService. Keeps nothing in memory: any number of them may run."""

    def __init__(self, db: Database, config: Config) -> None:
        self.db = db
        self.config = config

    def validate(
        self, context: RequestContext, requested: list[RequestedNetwork], count: int
    ) -> list[RequestedNetwork]:
        with self.db.read() as conn:
            return validate(conn, self.config, context, requested, count)

    def auto(self, context: RequestContext) -> list[RequestedNetwork]:
        """The only network that the project can use. Conflict if there are several, BadRequest if none."""
        with self.db.read() as conn:
            found = networks.usable(conn, context.project_id or "")
        if len(found) > 1:
            raise Conflict("Multiple possible networks found, use a Network ID to be more specific.")
        if not found:
            raise BadRequest(
                f"Unable to automatically allocate a network for project {context.project_id}: "
                "it has no network with a subnet"
            )
        return [RequestedNetwork(network_id=found[0].id)]

    @repeated
    def allocate_for_instance(
        self,
        server_id: str,
        project_id: str,
        hostname: str,
        host: str,
        availability_zone: str,
        requested: list[RequestedNetwork],
    ) -> list[Vif]:
        """BuildAborted if there is no address or no quota left, or a port is not to be had."""
        if not requested:
            return []
        binding = instances.Binding(server_id, project_id, hostname, host, availability_zone)
        with self.db.write() as conn:
            return instances.allocate(conn, self.config, binding, requested)

    @repeated
    def deallocate_for_instance(self, server_id: str) -> None:
        with self.db.write() as conn:
            instances.deallocate(conn, server_id)

    def vifs(self, server_ids: list[str]) -> dict[str, list[Vif]]:
        """Every asked server is in the answer; four statements, however many there are."""
        found: dict[str, list[Vif]] = {server_id: [] for server_id in server_ids}
        with self.db.read() as conn:
            for vif in instances.vifs_of(conn, ports.of_servers(conn, server_ids)):
                found[vif.server_id or ""].append(vif)
        return found

    @repeated
    def port_status(self, server_ids: Sequence[str], active: bool) -> None:
        """The servers' ports show ACTIVE from when a host plugged them, and DOWN from when it unplugged."""
        with self.db.write() as conn:
            instances.set_status(conn, server_ids, active)

    def server_at(self, network_id: str, address: str) -> str | None:
        """Id of the server that has this address on this network: who asks the metadata service."""
        with self.db.read() as conn:
            return ports.server_at(conn, network_id, address)
