"""The service catalog: what is served under this address. Nothing of it is stored."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

INTERFACES = ("public", "internal", "admin")
_SPACE = uuid.UUID("6f1d2f3e-3d0c-5c1b-9a53-0d1c9b6c5c11")


@dataclass(frozen=True, slots=True)
class CatalogService:
    """One service: its type and name in the catalog, and its path below the address of the API."""

    type: str
    name: str
    path: str

    @property
    def id(self) -> str:
        return uuid.uuid5(_SPACE, self.type).hex

    def endpoint_id(self, interface: str) -> str:
        return uuid.uuid5(_SPACE, f"{self.type}/{interface}").hex


DEFAULT_SERVICES = (
    CatalogService("identity", "keystone", "/identity"),
    CatalogService("compute", "nova", "/compute/v2.1"),
    CatalogService("image", "glance", "/image"),
    CatalogService("network", "neutron", "/networking"),
    CatalogService("block-storage", "cinder", "/volume/v3"),
    CatalogService("volumev3", "cinderv3", "/volume/v3"),
)


@dataclass(frozen=True, slots=True)
class Catalog:
    """Endpoints are built from ``base``, the address by which the client reached us (``http://host:port``),
    so that they are right behind every name that this machine has."""

    services: Sequence[CatalogService]
    region: str

    def in_token(self, base: str) -> list[dict[str, Any]]:
        return [
            {
                "id": service.id,
                "type": service.type,
                "name": service.name,
                "endpoints": [
                    {
                        "id": service.endpoint_id(interface),
                        "interface": interface,
                        "region": self.region,
                        "region_id": self.region,
                        "url": base + service.path,
                    }
                    for interface in INTERFACES
                ],
            }
            for service in self.services
        ]
