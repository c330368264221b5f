"""What guests ask of the metadata service: who they are, as the conductor knows, and to keep a password."""

from __future__ import annotations

from functools import partial

from msgspec import structs

from kilonova.compute import vendor_data
from kilonova.compute.parts import Parts
from kilonova.domain.errors import NotFound
from kilonova.domain.messages import Nothing, ServerQuery, SetPassword
from kilonova.domain.servers import GuestMetadata
from kilonova.network.base import MetadataDeeds


def deeds(parts: Parts) -> MetadataDeeds:
    return MetadataDeeds(
        vendor_data=partial(vendor_data.dynamic, parts.config.api),
        keep_password=partial(keep_password, parts),
        places=lambda about: parts.driver.places(about.server_id),
    )


def whose(parts: Parts, network_id: str, address: str) -> GuestMetadata | None:
    """Whose address this is on that network, and what to tell it."""
    for vif in parts.network.plugged().values():
        on_it = vif.network_id == network_id and any(own.ip == address for own in vif.addresses)
        if on_it and vif.server_id is not None:
            query = ServerQuery(host=parts.host, server_id=vif.server_id)
            try:
                told = parts.ask("guest_metadata", query, GuestMetadata)
            except NotFound:
                return None
            static = vendor_data.static(parts.config.api)
            return structs.replace(told, vendor_data=static, plug=parts.network.plug_kind)
    return None


def keep_password(parts: Parts, about: GuestMetadata, password: str) -> None:
    message = SetPassword(host=parts.host, server_id=about.server_id, password=password)
    parts.ask("set_password", message, Nothing)
