"""The body of the action rebuild: one rung for each microversion that changed it (Nova's request schemas)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, cast

import msgspec
from msgspec import UNSET, Meta, UnsetType

from kilonova.api.compute import server_fields as fields
from kilonova.api.compute.create_body import File
from kilonova.api.compute.server_fields import Hostname, HostOrFqdn, Metadata
from kilonova.api.http import Version


class RebuildRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What every rung has. What is unset stays as it is."""

    image_ref: str = msgspec.field(name="imageRef")
    name: str | UnsetType = UNSET
    admin_pass: str | UnsetType = msgspec.field(name="adminPass", default=UNSET)
    metadata: Metadata | UnsetType = UNSET
    preserve_ephemeral: bool | str = False
    disk_config: Literal["AUTO", "MANUAL"] | UnsetType = msgspec.field(
        name="OS-DCF:diskConfig", default=UNSET
    )
    access_ipv4: str | UnsetType = msgspec.field(name="accessIPv4", default=UNSET)
    access_ipv6: str | UnsetType = msgspec.field(name="accessIPv6", default=UNSET)

    # What only some rungs take.
    personality = cast("Sequence[File]", ())
    description = cast("str | UnsetType | None", UNSET)
    key_name = cast("str | UnsetType | None", UNSET)
    user_data = cast("str | UnsetType | None", UNSET)
    trusted_image_certificates = cast("Sequence[str] | None", None)
    hostname = cast("str | UnsetType", UNSET)

    def __post_init__(self) -> None:
        self.image_ref = fields.uuid("imageRef", self.image_ref)
        if self.name is not UNSET:
            fields.name("name", self.name)
        if isinstance(self.key_name, str):
            fields.name("key_name", self.key_name)
        if isinstance(self.description, str):
            fields.text("description", self.description)
        if self.access_ipv4 is not UNSET:
            self.access_ipv4 = fields.address("accessIPv4", self.access_ipv4, version=4)
        if self.access_ipv6 is not UNSET:
            self.access_ipv6 = fields.address("accessIPv6", self.access_ipv6, version=6)
        self.preserve_ephemeral = fields.truth("preserve_ephemeral", self.preserve_ephemeral)


class Rebuild201(RebuildRequest, forbid_unknown_fields=True, kw_only=True):
    personality: Sequence[File] = ()


class Rebuild219(Rebuild201, forbid_unknown_fields=True, kw_only=True):
    description: str | UnsetType | None = UNSET


class Rebuild254(Rebuild219, forbid_unknown_fields=True, kw_only=True):
    key_name: str | UnsetType | None = UNSET


class Rebuild257(RebuildRequest, forbid_unknown_fields=True, kw_only=True):
    """Without ``personality``."""

    description: str | UnsetType | None = UNSET
    key_name: str | UnsetType | None = UNSET
    user_data: Annotated[str, Meta(max_length=65535)] | UnsetType | None = UNSET


class Rebuild263(Rebuild257, forbid_unknown_fields=True, kw_only=True):
    trusted_image_certificates: Annotated[Sequence[str], Meta(min_length=1, max_length=50)] | None = None


class Rebuild290(Rebuild263, forbid_unknown_fields=True, kw_only=True):
    hostname: Hostname | UnsetType = UNSET


class Rebuild294(Rebuild290, forbid_unknown_fields=True, kw_only=True):
    hostname: HostOrFqdn | UnsetType = UNSET


LADDER: Mapping[Version, Any] = {
    (2, 1): Rebuild201,
    (2, 19): Rebuild219,
    (2, 54): Rebuild254,
    (2, 57): Rebuild257,
    (2, 63): Rebuild263,
    (2, 90): Rebuild290,
    (2, 94): Rebuild294,
}
