"""A server as the API shows it, at each microversion.

One ServerView serves one request: what does not change from server to server is worked out once, and JSON
that the database holds is spliced into the answer as it is. A list of 1,000 servers lives from that.

Source: the Compute API reference, https://docs.openstack.org/api-ref/compute/#show-server-details.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec
import sqlalchemy as sa

from kilonova.api.compute.addresses import addresses, extended_addresses
from kilonova.api.compute.state import ComputeAPI
from kilonova.api.http import Request
from kilonova.domain.actions import api_status
from kilonova.domain.clock import iso8601, iso8601_micro, now
from kilonova.domain.servers import Flavor, ImageRef
from kilonova.store import server_lists, server_tags
from kilonova.store.database import Row

_WITH_PROGRESS = frozenset({"ACTIVE", "BUILD"})
_WITH_FAULT = frozenset({"ERROR", "DELETED"})
_DISK_NAMES = {"ide": "/dev/hda", "sata": "/dev/sda", "scsi": "/dev/sda", "usb": "/dev/sda"}
_EMPTY_HINTS = msgspec.Raw(b"{}")
_IMAGE_PROPERTIES = ("hw_", "img_", "os_")


_flavor = msgspec.json.Decoder(Flavor).decode
_image = msgspec.json.Decoder(ImageRef).decode
_fault = msgspec.json.Decoder(dict[str, Any]).decode


def columns(request: Request) -> Sequence[Any]:
    """What to read of each server for this request. Only admins see user data."""
    shows_user_data = request.context.is_admin and request.at_least(2, 3)
    return server_lists.DETAIL_AND_USER_DATA if shows_user_data else server_lists.DETAIL


def one(api: ComputeAPI, conn: sa.Connection, request: Request, row: Row) -> dict[str, Any]:
    """GET /servers/{id}"""
    view = ServerView(api, conn, request, [row])
    return view.full(row) | view.groups()


def many(api: ComputeAPI, conn: sa.Connection, request: Request, rows: Sequence[Row]) -> list[msgspec.Raw]:
    """GET /servers/detail: two statements more, however many rows.

    Each server is encoded at once: a thousand dicts that live together would wake the garbage collector.
    """
    view = ServerView(api, conn, request, rows)
    return [_encoded(view.full(row)) for row in rows]


def updated(api: ComputeAPI, conn: sa.Connection, request: Request, row: Row) -> dict[str, Any]:
    """The answer to PUT /servers/{id}: until 2.75 it lacked most of the extended attributes."""
    if request.at_least(2, 75):
        return one(api, conn, request, row)
    view = ServerView(api, conn, request, [row])
    return view.core(row) | {"addresses": view.addresses(row, plain=True)} | view.groups()


class ServerView:
    def __init__(self, api: ComputeAPI, conn: sa.Connection, request: Request, rows: Sequence[Row]) -> None:
        self._since = request.at_least
        self._root = request.url
        self._unversioned = request.url.rsplit("/", 1)[0]
        self._admin = request.context.is_admin
        self._down_time = api.config.compute.service_down_time
        self._tags: Mapping[str, list[str]] = {}
        self._hosts: Mapping[str, Row] = {}
        self._flavors: dict[str, Any] = {}
        self._images: dict[str, Any] = {}
        self._host_ids: dict[tuple[str, str], str] = {}
        self._later = self._fields_of_the_version()
        if self._since(2, 26):
            self._tags = server_tags.of(conn, [row.id for row in rows])
        if self._admin:
            self._hosts = server_lists.host_states(conn, {row.host for row in rows if row.host})

    def full(self, row: Row) -> dict[str, Any]:
        """Everything but the server groups, which lists do not have."""
        view = self.core(row)
        view["addresses"] = self.addresses(row)
        view["OS-EXT-AZ:availability_zone"] = row.availability_zone or ""
        view["OS-EXT-STS:task_state"] = row.task_state
        view["OS-EXT-STS:vm_state"] = row.vm_state
        view["OS-EXT-STS:power_state"] = row.power_state
        view["OS-SRV-USG:launched_at"] = iso8601_micro(row.launched_at)
        view["OS-SRV-USG:terminated_at"] = iso8601_micro(row.terminated_at)
        view["config_drive"] = "True" if row.config_drive else ""
        view["key_name"] = row.key_name
        view["os-extended-volumes:volumes_attached"] = []
        view["security_groups"] = []
        if self._admin:
            self._add_for_admin(view, row)
        elif self._since(2, 90):
            view["OS-EXT-SRV-ATTR:hostname"] = row.hostname
        if self._since(2, 96):
            view["pinned_availability_zone"] = row.pinned_availability_zone
        return view

    def core(self, row: Row) -> dict[str, Any]:
        """What every answer about a server has, the one to an update too; all but the addresses."""
        status = api_status(row.vm_state, row.task_state)
        view = {
            "id": row.id,
            "name": row.name,
            "status": status,
            "tenant_id": row.project_id,
            "user_id": row.user_id,
            "metadata": msgspec.Raw(row.metadata),
            "hostId": self._host_id(row.project_id, row.host),
            "image": self._image(row),
            "flavor": self._flavor(row),
            "created": iso8601(row.created_at),
            "updated": iso8601(row.updated_at),
            "accessIPv4": row.access_ip_v4 or "",
            "accessIPv6": row.access_ip_v6 or "",
            "links": [
                {"rel": "self", "href": f"{self._root}/servers/{row.id}"},
                {"rel": "bookmark", "href": f"{self._unversioned}/servers/{row.id}"},
            ],
            "OS-DCF:diskConfig": "AUTO" if row.auto_disk_config else "MANUAL",
        }
        if status in _WITH_PROGRESS:
            view["progress"] = 0
        if status in _WITH_FAULT and row.fault is not None:
            view["fault"] = self._fault(row.fault)
        for name, value in self._later:
            view[name] = value(row)
        return view

    def addresses(self, row: Row, plain: bool = False) -> dict[str, list[dict[str, Any]]]:
        """By network. A server that is being built shows none: they may change yet."""
        if row.vm_state == "building":
            return {}
        return addresses(row.vifs) if plain else extended_addresses(row.vifs)

    def groups(self) -> dict[str, list[str]]:
        """There are no server groups, so that no server is in one."""
        return {"server_groups": []} if self._since(2, 71) else {}

    def _fields_of_the_version(self) -> list[tuple[str, Any]]:
        """Fields that microversions added to every answer: (name, what it is of a row)."""
        added = [
            ((2, 9), "locked", lambda row: row.locked_by is not None),
            ((2, 19), "description", lambda row: row.description),
            ((2, 26), "tags", lambda row: self._tags.get(row.id, [])),
            ((2, 63), "trusted_image_certificates", lambda row: None),
            ((2, 73), "locked_reason", lambda row: row.locked_reason),
            (
                (2, 100),
                "scheduler_hints",
                lambda row: msgspec.Raw(row.scheduler_hints) if row.scheduler_hints else _EMPTY_HINTS,
            ),
        ]
        return [(name, value) for since, name, value in added if self._since(*since)]

    def _add_for_admin(self, view: dict[str, Any], row: Row) -> None:
        host = self._hosts.get(row.host)
        view["OS-EXT-SRV-ATTR:host"] = row.host
        view["OS-EXT-SRV-ATTR:hypervisor_hostname"] = host.hypervisor_hostname if host else None
        view["OS-EXT-SRV-ATTR:instance_name"] = f"instance-{row.id}"
        if self._since(2, 3):
            _, properties, disk = self._image_facts(row.image)
            view["OS-EXT-SRV-ATTR:hostname"] = row.hostname
            view["OS-EXT-SRV-ATTR:kernel_id"] = properties.get("kernel_id", "")
            view["OS-EXT-SRV-ATTR:ramdisk_id"] = properties.get("ramdisk_id", "")
            view["OS-EXT-SRV-ATTR:launch_index"] = row.launch_index
            view["OS-EXT-SRV-ATTR:reservation_id"] = row.reservation_id
            view["OS-EXT-SRV-ATTR:root_device_name"] = disk
            view["OS-EXT-SRV-ATTR:user_data"] = row.user_data
        if self._since(2, 16):
            view["host_status"] = self._host_status(host)

    def _host_status(self, host: Row | None) -> str:
        if host is None:
            return ""
        if host.forced_down:
            return "DOWN"
        if host.disabled:
            return "MAINTENANCE"
        return "UP" if now() - host.last_seen <= self._down_time else "UNKNOWN"

    def _host_id(self, project_id: str, host: str | None) -> str:
        return host_id(project_id, host) if host else ""

    def _flavor(self, row: Row) -> Any:
        known = self._flavors.get(row.flavor)
        if known is None:
            known = self._flavors[row.flavor] = self._flavor_view(_flavor(row.flavor))
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

    def _image(self, row: Row) -> Any:
        return self._image_facts(row.image)[0]

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
