"""BuiltinNetwork: what the control plane, the API and whoever wires the program hold of this service."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import sqlalchemy as sa
from msgspec import structs

from kilonova.config import Config
from kilonova.domain.context import RequestContext
from kilonova.domain.errors import BadRequest, Conflict, NotFound
from kilonova.domain.network import NetworkState, Port, Vif
from kilonova.domain.routers import HostRouters
from kilonova.domain.servers import RequestedNetwork
from kilonova.network.base import Seat, ServerGroup
from kilonova.network.builtin import (
    auto_allocated_topologies,
    host_routers,
    host_state,
    instances,
    interfaces,
    placement,
    port_groups,
    security_groups,
    segments,
    server_groups,
    tunnels,
    vifs,
)
from kilonova.network.builtin.changes import Tell, heard_by
from kilonova.network.builtin.errors import AutoAllocationFailure, OverQuota
from kilonova.network.builtin.requested import validate
from kilonova.store import networks, port_security, ports
from kilonova.store.database import Database
from kilonova.store.repeat import repeated


class BuiltinNetwork:
    """Implements network.base.NetworkService. Keeps nothing in memory: any number of them may run.

    ``tell`` hears of what changed for hosts; without it they see it when they next compare.
    """

    def __init__(self, db: Database, config: Config, tell: Tell | None = None) -> None:
        self.db = db
        self.config = config
        self._tell = tell

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction of the database whose changes hosts are told of."""
        with self.db.write() as conn:
            heard_by(conn, self._tell)
            yield conn

    def ensure_default_group(self, project_id: str) -> None:
        with self.db.read() as conn:
            if security_groups.has_default(conn, project_id):
                return
        with self.write() as conn:
            security_groups.ensure_default(conn, project_id)

    def validate(
        self, context: RequestContext, requested: list[RequestedNetwork], count: int
    ) -> list[RequestedNetwork]:
        with self.db.read() as conn:
            return validate(conn, self.config, context, requested, count)

    def auto(self, context: RequestContext) -> list[RequestedNetwork]:
        """The only network that the project can use, or one made for it. Conflict if there are several,
        BadRequest if none can be made."""
        with self.db.read() as conn:
            found = networks.usable(conn, context.project_id or "")
        if len(found) > 1:
            raise Conflict("Multiple possible networks found, use a Network ID to be more specific.")
        network_id = found[0].id if found else self._auto_allocated(context)
        return [RequestedNetwork(network_id=network_id)]

    def _auto_allocated(self, context: RequestContext) -> str:
        try:
            with self.write() as conn:
                return auto_allocated_topologies.ensure(conn, self.config, context, context.project_id or "")
        except (AutoAllocationFailure, OverQuota) as error:
            raise BadRequest(
                f"Unable to automatically allocate a network for project {context.project_id}: "
                f"it has no network with a subnet, and none can be made. {error.message}"
            ) from error

    @repeated
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
        """BuildAborted if there is no address or no quota left, or a port is not to be had."""
        if not requested:
            return []
        seat = Seat(
            server_id=server_id,
            project_id=project_id,
            hostname=hostname,
            host=host,
            availability_zone=availability_zone,
            security_groups=security_groups,
        )
        with self.write() as conn:
            return instances.allocate(conn, self.config, seat, requested)

    @repeated
    def deallocate_for_instance(self, server_id: str) -> None:
        with self.write() as conn:
            instances.deallocate(conn, server_id)

    def bind_for_instance(self, server_id: str, host: str) -> list[Vif]:
        with self.write() as conn:
            return instances.bind_all(conn, server_id, host)

    @repeated
    def state(self, host: str, port_ids: Sequence[str], network_ids: Sequence[str] = ()) -> NetworkState:
        """Ports of a release without security groups are given their default one now, and networks of one
        without tunnels an identifier."""
        with self.db.read() as conn:
            own = port_security.on_host(conn, host, port_ids)
            found = list(ports.by_id(conn, own).values())
            networks = tunnels.of_interest(conn, host, [*network_ids, *(port.network_id for port in found)])
            unnumbered = tunnels.unnumbered(conn, networks)
            if not unnumbered and not port_security.ungrouped(conn, own):
                return _state(conn, host, found, networks)
        if unnumbered:
            with self.write() as conn:
                segments.ensure(conn, self.config, unnumbered)
        with self.write() as conn:
            found = list(ports.by_id(conn, own, for_update=True).values())
            return _state(conn, host, port_groups.adopted(conn, found), networks)

    @repeated
    def host_moved(self, host: str) -> None:
        with self.write() as conn:
            tunnels.moved(conn, host)

    def host_routers(self, host: str) -> HostRouters:
        with self.db.read() as conn:
            return host_routers.of_host(conn, host)

    def rehome_routers(self, silence: float) -> None:
        with self.db.read() as conn:
            if not placement.homeless(conn, silence):
                return
        self._rehome(silence)

    @repeated
    def _rehome(self, silence: float) -> None:
        with self.write() as conn:
            placement.rehome(conn, self.config, silence)

    def security_groups(self, context: RequestContext, names: Sequence[str]) -> list[str]:
        with self.db.read() as conn:
            try:
                return server_groups.resolved(conn, context.project_id, names)
            except NotFound as error:
                raise BadRequest(error.message) from error

    @repeated
    def add_security_group(self, context: RequestContext, server_id: str, name: str) -> None:
        self._ensure_named(context, name)
        with self.write() as conn:
            server_groups.add(conn, context, server_id, name)

    @repeated
    def remove_security_group(self, context: RequestContext, server_id: str, name: str) -> None:
        with self.write() as conn:
            server_groups.remove(conn, context, server_id, name)

    def _ensure_named(self, context: RequestContext, name: str) -> None:
        if name == security_groups.DEFAULT and context.project_id is not None:
            self.ensure_default_group(context.project_id)

    def security_groups_of_server(self, server_id: str) -> list[ServerGroup]:
        with self.db.read() as conn:
            return server_groups.of_server(conn, server_id)

    def security_group_names(self, server_ids: Sequence[str]) -> dict[str, list[str]]:
        with self.db.read() as conn:
            found = port_security.names_of_servers(conn, server_ids)
        return {server_id: [row.name for row in rows] for server_id, rows in found.items()}

    def vifs(self, server_ids: list[str]) -> dict[str, list[Vif]]:
        """Every asked server is in the answer; five statements, however many there are."""
        found: dict[str, list[Vif]] = {server_id: [] for server_id in server_ids}
        with self.db.read() as conn:
            for vif in vifs.of_ports(conn, ports.of_servers(conn, server_ids)):
                found[vif.server_id or ""].append(vif)
        return found

    @repeated
    def port_status(self, server_ids: Sequence[str], active: bool) -> None:
        """The servers' ports show ACTIVE from when a host plugged them, and DOWN from when it unplugged."""
        with self.db.write() as conn:
            instances.set_status(conn, server_ids, active)

    @repeated
    def attach(self, context: RequestContext, seat: Seat, asked: RequestedNetwork) -> str:
        with self.write() as conn:
            return interfaces.attach(conn, self.config, context, seat, asked)

    @repeated
    def detach(self, server_id: str, port_id: str) -> None:
        with self.write() as conn:
            interfaces.detach(conn, server_id, port_id)

    @repeated
    def add_fixed_ip(self, server_id: str, network_id: str) -> None:
        with self.write() as conn:
            interfaces.add_fixed_ip(conn, server_id, network_id)

    @repeated
    def remove_fixed_ip(self, server_id: str, address: str) -> None:
        with self.write() as conn:
            interfaces.remove_fixed_ip(conn, server_id, address)

    def server_at(self, network_id: str, address: str) -> str | None:
        """Id of the server that has this address on this network: who asks the metadata service."""
        with self.db.read() as conn:
            return ports.server_at(conn, network_id, address)


def _state(conn: sa.Connection, host: str, found: list[Port], network_ids: set[str]) -> NetworkState:
    state = host_state.state_of(conn, found)
    return structs.replace(state, tunnels=tunnels.of_host(conn, host, network_ids))
