"""What clients send to make or describe a flavor: one ladder of structs, by microversion."""

from __future__ import annotations

import msgspec

from kilonova.api.compute import inputs

_ID = r"[a-zA-Z0-9._-]([a-zA-Z0-9. _-]{0,253}[a-zA-Z0-9._-])?"
_FACTOR = r"[0-9]{1,40}(\.[0-9]{1,40})?"
_MAX_FACTOR = 3.40282e38
_MAX_DESCRIPTION = 65535


class _NewFlavor(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What all microversions take. Numbers may come as strings."""

    name: str
    ram: int | str
    vcpus: int | str
    disk: int | str
    id: str | int | float | None = None
    ephemeral: int | str = msgspec.field(name="OS-FLV-EXT-DATA:ephemeral", default=0)
    swap: int | str = 0
    is_public: bool | str = msgspec.field(name="os-flavor-access:is_public", default=True)

    def __post_init__(self) -> None:
        self.name = inputs.name("name", self.name)
        self.id = None if self.id is None else inputs.matching("id", str(self.id), _ID)
        self.ram = inputs.integer("ram", self.ram, 1)
        self.vcpus = inputs.integer("vcpus", self.vcpus, 1)
        self.disk = inputs.integer("disk", self.disk, 0)
        self.ephemeral = inputs.integer("OS-FLV-EXT-DATA:ephemeral", self.ephemeral, 0)
        self.swap = inputs.integer("swap", self.swap, 0)
        self.is_public = inputs.truth("os-flavor-access:is_public", self.is_public)


class NewFlavor(_NewFlavor, kw_only=True):
    rxtx_factor: float | str = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.rxtx_factor, str):
            inputs.matching("rxtx_factor", self.rxtx_factor, _FACTOR)
        self.rxtx_factor = float(self.rxtx_factor)
        if not 0 < self.rxtx_factor <= _MAX_FACTOR:
            raise ValueError(f"rxtx_factor must be between 0 and {_MAX_FACTOR:g}")


class NewFlavor255(NewFlavor, kw_only=True):
    """2.55 adds the description."""

    description: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.description = inputs.text("description", self.description, _MAX_DESCRIPTION)


class NewFlavor2102(_NewFlavor, kw_only=True):
    """2.102 drops rxtx_factor."""

    description: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.description = inputs.text("description", self.description, _MAX_DESCRIPTION)


class Create(msgspec.Struct, forbid_unknown_fields=True):
    flavor: NewFlavor


class Create255(msgspec.Struct, forbid_unknown_fields=True):
    flavor: NewFlavor255


class Create2102(msgspec.Struct, forbid_unknown_fields=True):
    flavor: NewFlavor2102


CREATE: dict[tuple[int, int], type[Create | Create255 | Create2102]] = {
    (2, 1): Create,
    (2, 55): Create255,
    (2, 102): Create2102,
}


class NewDescription(msgspec.Struct, forbid_unknown_fields=True):
    description: str | None

    def __post_init__(self) -> None:
        self.description = inputs.text("description", self.description, _MAX_DESCRIPTION)


class Update(msgspec.Struct, forbid_unknown_fields=True):
    flavor: NewDescription
