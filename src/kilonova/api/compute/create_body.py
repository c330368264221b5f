"""The body of POST /servers: one rung for each microversion that changed it (Nova's request schemas).

A field that a rung does not have yet, or no longer, is unknown there and refused. Handlers see all of them
as ``ServerRequest``: what a rung lacks has its default.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Generic, Literal, TypeVar, cast

import msgspec
from msgspec import UNSET, Meta, UnsetType

from kilonova.api.compute import server_fields as fields
from kilonova.api.compute.server_fields import Hostname, HostOrFqdn, Metadata, Tag
from kilonova.api.http import Version

Short = Annotated[str, Meta(max_length=255)]


class NetworkItem(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One NIC: a network or a port."""

    uuid: str | UnsetType = UNSET
    port: str | None = None
    fixed_ip: str | UnsetType = UNSET
    tag = cast("str | None", None)

    def __post_init__(self) -> None:
        if self.port is not None:
            self.port = fields.uuid("port", self.port)
        if self.fixed_ip is not UNSET:
            self.fixed_ip = fields.address("fixed_ip", self.fixed_ip)


class TaggedNetworkItem(NetworkItem, forbid_unknown_fields=True, kw_only=True):
    tag: Tag | None = None


class Device(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One disk of block_device_mapping_v2."""

    source_type: Literal["volume", "image", "snapshot", "blank"] | UnsetType = UNSET
    destination_type: Literal["local", "volume"] | UnsetType = UNSET
    uuid: Short = ""
    image_id: str | None = None
    volume_id: str | None = None
    snapshot_id: str | None = None
    volume_size: int | str | None = None
    boot_index: int | str | None = None
    delete_on_termination: bool | str = False
    device_name: Annotated[str, Meta(max_length=255, pattern=r"^[a-zA-Z0-9._/-]*\Z")] | None = None
    device_type: Short | None = None
    disk_bus: Short | None = None
    guest_format: Short | None = None
    virtual_name: Short | None = None
    connection_info: str | None = None
    no_device: Any = None
    tag = cast("str | None", None)
    volume_type = cast("str | None", None)

    def __post_init__(self) -> None:
        for field in ("image_id", "volume_id", "snapshot_id"):
            if (value := getattr(self, field)) is not None:
                fields.uuid(field, value)
        self.delete_on_termination = fields.truth("delete_on_termination", self.delete_on_termination)
        if self.volume_size is not None and self.volume_size != "":
            self.volume_size = fields.integer("volume_size", self.volume_size, 1)
        if self.boot_index is not None:
            self.boot_index = fields.integer("boot_index", self.boot_index, -fields.MAX_INT)


class TaggedDevice(Device, forbid_unknown_fields=True, kw_only=True):
    tag: Tag | None = None


class TypedDevice(TaggedDevice, forbid_unknown_fields=True, kw_only=True):
    volume_type: Short | None = None


class LegacyDevice(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One disk of block_device_mapping, the first API's."""

    virtual_name: Short | None = None
    volume_id: str | None = None
    snapshot_id: str | None = None
    volume_size: int | str | None = None
    device_name: Annotated[str, Meta(max_length=255, pattern=r"^[a-zA-Z0-9._/-]*\Z")] | None = None
    delete_on_termination: bool | str = False
    no_device: Any = None
    connection_info: str | None = None

    def __post_init__(self) -> None:
        if self.volume_id is not None:
            self.volume_id = fields.uuid("volume_id", self.volume_id)
        if self.snapshot_id is not None:
            self.snapshot_id = fields.uuid("snapshot_id", self.snapshot_id)
        self.delete_on_termination = fields.truth("delete_on_termination", self.delete_on_termination)
        if self.volume_size is not None and self.volume_size != "":
            self.volume_size = fields.integer("volume_size", self.volume_size, 1)


class SecurityGroup(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    name: Short = ""


class File(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    path: str = ""
    contents: str = ""


class ServerRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What every rung has. Names are the API's; those that are no identifiers have their own here."""

    name: str
    flavor_ref: Annotated[str, Meta(min_length=1, max_length=255)] | int = msgspec.field(name="flavorRef")
    image_ref: str = msgspec.field(name="imageRef", default="")
    admin_pass: str | UnsetType = msgspec.field(name="adminPass", default=UNSET)
    metadata: Metadata = {}
    networks: Sequence[NetworkItem] | str = ()
    disk_config: Literal["AUTO", "MANUAL"] = msgspec.field(name="OS-DCF:diskConfig", default="MANUAL")
    access_ipv4: str | UnsetType = msgspec.field(name="accessIPv4", default=UNSET)
    access_ipv6: str | UnsetType = msgspec.field(name="accessIPv6", default=UNSET)
    availability_zone: str | UnsetType = UNSET
    block_device_mapping: Sequence[LegacyDevice] = ()
    block_device_mapping_v2: Sequence[Device] = ()
    config_drive: bool | str = False
    key_name: str | UnsetType = UNSET
    min_count: int | str = 1
    max_count: int | str | UnsetType = UNSET
    return_reservation_id: bool | str = False
    security_groups: Sequence[SecurityGroup] = ()
    user_data: Annotated[str, Meta(max_length=65535)] | UnsetType = UNSET

    # What only some rungs take.
    personality = cast("Sequence[File] | UnsetType", ())
    description = cast("str | UnsetType | None", UNSET)
    tags = cast("Sequence[str]", ())
    trusted_image_certificates = cast("Sequence[str] | None", None)
    host = cast("str | None", None)
    hypervisor_hostname = cast("str | None", None)
    hostname = cast("str | None", None)

    def __post_init__(self) -> None:
        fields.name("name", self.name)
        for field in ("availability_zone", "key_name"):
            if (value := getattr(self, field)) is not UNSET:
                fields.name(field, value)
        if isinstance(self.description, str):
            fields.text("description", self.description)
        if self.image_ref:
            self.image_ref = fields.uuid("imageRef", self.image_ref)
        if self.access_ipv4 is not UNSET:
            self.access_ipv4 = fields.address("accessIPv4", self.access_ipv4, version=4)
        if self.access_ipv6 is not UNSET:
            self.access_ipv6 = fields.address("accessIPv6", self.access_ipv6, version=6)
        self.config_drive = fields.truth("config_drive", self.config_drive)
        self.return_reservation_id = fields.truth("return_reservation_id", self.return_reservation_id)
        self.min_count = fields.integer("min_count", self.min_count, 1)
        if self.max_count is not UNSET:
            self.max_count = fields.integer("max_count", self.max_count, 1)


class Create201(ServerRequest, forbid_unknown_fields=True, kw_only=True):
    networks: Sequence[NetworkItem] = ()
    personality: Sequence[File] | UnsetType = ()


class Create219(Create201, forbid_unknown_fields=True, kw_only=True):
    description: str | UnsetType | None = None


class Create232(Create219, forbid_unknown_fields=True, kw_only=True):
    networks: Sequence[TaggedNetworkItem] = ()
    block_device_mapping_v2: Sequence[TaggedDevice] = ()


class Create233(Create219, forbid_unknown_fields=True, kw_only=True):
    """Tags of disks came in 2.32 alone, by mistake, and again in 2.42."""

    networks: Sequence[TaggedNetworkItem] = ()


class Create237(ServerRequest, forbid_unknown_fields=True, kw_only=True):
    """``networks`` must be there; the tags of NICs came back in 2.42."""

    networks: Sequence[NetworkItem] | Literal["auto", "none"]
    personality: Sequence[File] | UnsetType = ()
    description: str | UnsetType | None = None


class Create242(Create237, forbid_unknown_fields=True, kw_only=True):
    networks: Sequence[TaggedNetworkItem] | Literal["auto", "none"]
    block_device_mapping_v2: Sequence[TaggedDevice] = ()


class Create252(Create242, forbid_unknown_fields=True, kw_only=True):
    tags: Annotated[Sequence[Tag], Meta(max_length=50)] = ()


class Create257(Create252, forbid_unknown_fields=True, kw_only=True):
    personality: UnsetType = UNSET


class Create263(Create257, forbid_unknown_fields=True, kw_only=True):
    trusted_image_certificates: Annotated[Sequence[str], Meta(min_length=1, max_length=50)] | None = None


class Create267(Create263, forbid_unknown_fields=True, kw_only=True):
    block_device_mapping_v2: Sequence[TypedDevice] = ()


class Create274(Create267, forbid_unknown_fields=True, kw_only=True):
    host: HostOrFqdn | None = None
    hypervisor_hostname: HostOrFqdn | None = None


class Create290(Create274, forbid_unknown_fields=True, kw_only=True):
    hostname: Hostname | None = None


class Create294(Create290, forbid_unknown_fields=True, kw_only=True):
    hostname: HostOrFqdn | None = None


Rung = TypeVar("Rung", bound=ServerRequest)


class Body(msgspec.Struct, Generic[Rung], forbid_unknown_fields=True, kw_only=True):
    server: Rung
    hints: dict[str, Any] = msgspec.field(name="os:scheduler_hints", default={})
    older_hints: dict[str, Any] = msgspec.field(name="OS-SCH-HNT:scheduler_hints", default={})


LADDER: Mapping[Version, Any] = {
    (2, 1): Body[Create201],
    (2, 19): Body[Create219],
    (2, 32): Body[Create232],
    (2, 33): Body[Create233],
    (2, 37): Body[Create237],
    (2, 42): Body[Create242],
    (2, 52): Body[Create252],
    (2, 57): Body[Create257],
    (2, 63): Body[Create263],
    (2, 67): Body[Create267],
    (2, 74): Body[Create274],
    (2, 90): Body[Create290],
    (2, 94): Body[Create294],
}
