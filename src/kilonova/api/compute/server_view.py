"""A server as the API shows it, at each microversion.

One ServerView serves one request. What many servers have alike (flavor, image, state, host, …) is encoded
once for all of them, and JSON that the database holds is spliced into the answer as it is. A list of 1,000
servers lives from that.

Source: the Compute API reference, https://docs.openstack.org/api-ref/compute/#show-server-details.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec
import sqlalchemy as sa
from msgspec import UNSET

from kilonova.api.compute.addresses import addresses, extended_addresses
from kilonova.api.compute.server_columns import (
    Alike,
    Link,
    Own,
    OwnView,
    Place,
    alike_of,
    host_of,
    id_of,
    own_of,
    place_of,
)
from kilonova.api.compute.state import ComputeAPI
from kilonova.api.http import Request
from kilonova.domain.actions import api_status
from kilonova.domain.clock import iso8601, iso8601_micro, now
from kilonova.domain.servers import Flavor, ImageRef
from kilonova.store import block_devices, server_lists, server_tags
from kilonova.store.database import Row

_WITH_PROGRESS = frozenset({"ACTIVE", "BUILD"})
_WITH_FAULT = frozenset({"ERROR", "DELETED"})
_DISK_NAMES = {"ide": "/dev/hda", "sata": "/dev/sda", "scsi": "/dev/sda", "usb": "/dev/sda"}
_IMAGE_PROPERTIES = ("hw_", "img_", "os_")


_IMAGE = list(Alike.__annotations__).index("image")
_flavor = msgspec.json.Decoder(Flavor).decode
_image = msgspec.json.Decoder(ImageRef).decode
_fault = msgspec.json.Decoder(dict[str, Any]).decode


def columns(request: Request) -> Sequence[Any]:
    """What to read of each server for this request. Only admins see user data."""
    shows_user_data = request.context.is_admin and request.at_least(2, 3)
    return server_lists.DETAIL_AND_USER_DATA if shows_user_data else server_lists.DETAIL


def one(api: ComputeAPI, conn: sa.Connection, request: Request, row: Row) -> msgspec.Raw:
    """GET /servers/{id}"""
    return ServerView(api, conn, request, [row]).encoded(row, with_groups=True)


def many(api: ComputeAPI, conn: sa.Connection, request: Request, rows: Sequence[Row]) -> list[msgspec.Raw]:
    """GET /servers/detail: four statements more, however many rows. Lists do not show server groups."""
    view = ServerView(api, conn, request, rows)
    return [view.encoded(row) for row in rows]


def updated(api: ComputeAPI, conn: sa.Connection, request: Request, row: Row) -> msgspec.Raw:
    """The answer to PUT /servers/{id}: until 2.75 it lacked most of the extended attributes."""
    view = ServerView(api, conn, request, [row], extended=request.at_least(2, 75))
    return view.encoded(row, with_groups=True)


class ServerView:
    """``extended``: with the attributes that extensions of the API once added."""

    def __init__(
        self,
        api: ComputeAPI,
        conn: sa.Connection,
        request: Request,
        rows: Sequence[Row],
        extended: bool = True,
    ) -> None:
        self._since = request.at_least
        self._root = request.url
        self._unversioned = request.url.rsplit("/", 1)[0]
        self._admin = request.context.is_admin
        self._extended = extended
        self._down_time = api.config.compute.service_down_time
        self._tags: Mapping[str, list[str]] | None = None
        self._hosts: Mapping[str, Row] = {}
        self._flavors: dict[str, msgspec.Raw] = {}
        self._images: dict[str, Any] = {}
        self._places: dict[tuple[Any, ...], bytes] = {}
        self._shared: dict[tuple[Any, ...], bytes] = {}
        self._has_description = self._since(2, 19)
        self._has_groups = self._since(2, 71)
        self._has_hostname = self._since(2, 3) if self._admin else self._since(2, 90)
        self._groups = api.network.security_group_names([row.id for row in rows]) if extended else {}
        ids = list(map(id_of, rows))
        self._volumes = block_devices.volumes_of(conn, ids) if extended else {}
        if self._since(2, 26):
            self._tags = server_tags.of(conn, ids)
        if self._admin:
            self._hosts = server_lists.host_states(conn, set(map(host_of, rows)) - {None})

    def encoded(self, row: Row, with_groups: bool = False) -> msgspec.Raw:
        """The JSON of one server. ``with_groups``: with its server groups; there are none."""
        own = Own._make(own_of(row))
        view = self._of_own(own)
        if self._extended:
            self._extend(view, own, row)
        if with_groups and self._has_groups:
            view.server_groups = []
        alike = alike_of(row)
        shared = self._shared.get(alike)
        if shared is None:
            shared = self._shared[alike] = _members(self._of_alike(Alike(*alike)))
        place = place_of(row)
        placed = self._places.get(place)
        if placed is None:
            placed = self._places[place] = _members(self._of_place(Place(*place)))
        return msgspec.Raw(b"{%b,%b,%b}" % (_members(view), shared, placed))

    def _of_own(self, row: Own) -> OwnView:
        own, bookmark = f"{self._root}/servers/{row.id}", f"{self._unversioned}/servers/{row.id}"
        view = OwnView(
            row.id,
            row.name,
            msgspec.Raw(row.metadata),
            iso8601(row.created_at),
            iso8601(row.updated_at),
            (Link("self", own), Link("bookmark", bookmark)),
            self._addresses(row),
        )
        if row.fault is not None and api_status(row.vm_state, row.task_state) in _WITH_FAULT:
            view.fault = self._fault(row.fault)
        if self._has_description:
            view.description = row.description
        if self._tags is not None:
            view.tags = self._tags.get(row.id, [])
        return view

    def _extend(self, view: OwnView, row: Own, all_columns: Row) -> None:
        view.security_groups = [{"name": name} for name in self._groups.get(row.id, ())] or UNSET
        view.volumes = self._attached(row.id)
        view.launched_at = iso8601_micro(row.launched_at)
        view.terminated_at = iso8601_micro(row.terminated_at)
        if self._has_hostname:
            view.hostname = row.hostname
        if self._admin:
            view.instance_name = f"instance-{row.id}"
            if self._has_hostname:
                view.launch_index = row.launch_index
                view.reservation_id = row.reservation_id
                view.user_data = all_columns.user_data
                view.root_device_name = self._root_device(row.id, all_columns)

    def _attached(self, server_id: str) -> list[dict[str, Any]]:
        found = self._volumes.get(server_id, [])
        if not self._since(2, 3):
            return [{"id": one.volume_id} for one in found]
        return [
            {"id": one.volume_id, "delete_on_termination": bool(one.delete_on_termination)} for one in found
        ]

    def _root_device(self, server_id: str, row: Row) -> str:
        for one in self._volumes.get(server_id, ()):
            if one.boot_index == 0:
                return str(one.device_name)
        return self._image_facts(alike_of(row)[_IMAGE])[2]

    def _addresses(self, row: Own) -> dict[str, list[dict[str, Any]]]:
        """By network. A server that is being built shows none: they may change yet."""
        if row.vm_state == "building":
            return {}
        return extended_addresses(row.vifs) if self._extended else addresses(row.vifs)

    def _of_alike(self, row: Alike) -> dict[str, Any]:
        """What follows from the columns that servers have alike, and from nothing else."""
        status = api_status(row.vm_state, row.task_state)
        image, properties, disk = self._image_facts(row.image)
        view: dict[str, Any] = {
            "status": status,
            "tenant_id": row.project_id,
            "user_id": row.user_id,
            "image": image,
            "flavor": self._flavor(row.flavor),
            "accessIPv4": row.access_ip_v4 or "",
            "accessIPv6": row.access_ip_v6 or "",
            "OS-DCF:diskConfig": "AUTO" if row.auto_disk_config else "MANUAL",
        }
        if status in _WITH_PROGRESS:
            view["progress"] = 0
        added = {
            "locked": ((2, 9), row.locked_by is not None),
            "trusted_image_certificates": ((2, 63), None),
            "locked_reason": ((2, 73), row.locked_reason),
            "scheduler_hints": ((2, 100), msgspec.Raw(row.scheduler_hints or "{}")),
        }
        view |= {name: value for name, (since, value) in added.items() if self._since(*since)}
        if self._extended:
            view |= self._extensions(row, properties, disk)
        return view

    def _extensions(self, row: Alike, properties: Mapping[str, str], disk: str) -> dict[str, Any]:
        view: dict[str, Any] = {
            "OS-EXT-AZ:availability_zone": row.availability_zone or "",
            "OS-EXT-STS:task_state": row.task_state,
            "OS-EXT-STS:vm_state": row.vm_state,
            "OS-EXT-STS:power_state": row.power_state,
            "config_drive": "True" if row.config_drive else "",
            "key_name": row.key_name,
        }
        if self._admin and self._since(2, 3):
            view["OS-EXT-SRV-ATTR:kernel_id"] = properties.get("kernel_id", "")
            view["OS-EXT-SRV-ATTR:ramdisk_id"] = properties.get("ramdisk_id", "")
        if self._since(2, 96):
            view["pinned_availability_zone"] = row.pinned_availability_zone
        return view

    def _of_place(self, row: Place) -> dict[str, Any]:
        view: dict[str, Any] = {"hostId": host_id(row.project_id, row.host) if row.host else ""}
        if self._extended and self._admin:
            state = self._hosts.get(row.host) if row.host else None
            view["OS-EXT-SRV-ATTR:host"] = row.host
            view["OS-EXT-SRV-ATTR:hypervisor_hostname"] = state.hypervisor_hostname if state else None
            if self._since(2, 16):
                view["host_status"] = self._host_status(state)
        return view

    def _host_status(self, host: Row | None) -> str:
        if host is None:
            return ""
        if host.forced_down:
            return "DOWN"
        if host.disabled:
            return "MAINTENANCE"
        return "UP" if now() - host.last_seen <= self._down_time else "UNKNOWN"

    def _flavor(self, text: str) -> msgspec.Raw:
        known = self._flavors.get(text)
        if known is None:
            known = self._flavors[text] = self._flavor_view(_flavor(text))
        return known

    def _flavor_view(self, flavor: Flavor) -> msgspec.Raw:
        """Since 2.47 the flavor itself, as it was at boot; before, a link to it."""
        if not self._since(2, 47):
            href = f"{self._unversioned}/flavors/{flavor.id}"
            return _encoded({"id": flavor.id, "links": [{"rel": "bookmark", "href": href}]})
        return _encoded(
            {
                "vcpus": flavor.vcpus,
                "ram": flavor.memory_mb,
                "disk": flavor.root_gb,
                "ephemeral": flavor.ephemeral_gb,
                "swap": flavor.swap_mb,
                "original_name": flavor.name,
                "extra_specs": flavor.extra_specs,
            }
        )

    def _image_facts(self, text: str | None) -> tuple[Any, Mapping[str, str], str]:
        """(its view, its properties, the name of a disk made from it)"""
        if text is None:
            return "", {}, "/dev/vda"
        known = self._images.get(text)
        if known is None:
            image = _image(text)
            disk = _DISK_NAMES.get(image.properties.get("hw_disk_bus", ""), "/dev/vda")
            known = self._images[text] = (self._image_view(image), image.properties, disk)
        return known

    def _image_view(self, image: ImageRef) -> msgspec.Raw:
        href = f"{self._unversioned}/images/{image.id}"
        view: dict[str, Any] = {"id": image.id, "links": [{"rel": "bookmark", "href": href}]}
        if self._since(2, 98):
            items: Iterable[tuple[str, str]] = image.properties.items()
            view["properties"] = {name: text for name, text in items if name.startswith(_IMAGE_PROPERTIES)}
        return _encoded(view)

    def _fault(self, text: str) -> dict[str, Any]:
        """Only the admin sees the details: they may name hosts."""
        fault = _fault(text)
        view = {
            "code": fault["code"],
            "created": iso8601(fault["created"]),
            "message": fault["message"],
        }
        details = fault.get("details")
        if details and self._admin:
            view["details"] = (
                details if isinstance(details, str) else msgspec.json.encode(details, order="sorted").decode()
            )
        return view


@lru_cache(maxsize=4096)
def host_id(project_id: str, host: str) -> str:
    """The name of a host for those who must not know it: the same for one project, another for the next."""
    return hashlib.sha224(f"{project_id}{host}".encode()).hexdigest()


_encoder = msgspec.json.Encoder()


def _encoded(value: Any) -> msgspec.Raw:
    return msgspec.Raw(_encoder.encode(value))


def _members(view: dict[str, Any] | OwnView) -> bytes:
    """What stands between the braces of a JSON object."""
    return _encoder.encode(view)[1:-1]
