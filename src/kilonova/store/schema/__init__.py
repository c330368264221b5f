"""The tables, one file a group of resources. Times are epoch seconds (float, UTC); ids are UUID text."""

from __future__ import annotations

from kilonova.store.schema import aggregates as _aggregates
from kilonova.store.schema import block_devices as _block_devices
from kilonova.store.schema import flavors as _flavors
from kilonova.store.schema import hosts as _hosts
from kilonova.store.schema import idempotency as _idempotency
from kilonova.store.schema import identity as _identity
from kilonova.store.schema import images as _images
from kilonova.store.schema import keypairs as _keypairs
from kilonova.store.schema import network_rbac as _network_rbac
from kilonova.store.schema import networks as _networks
from kilonova.store.schema import operations as _operations
from kilonova.store.schema import quotas as _quotas
from kilonova.store.schema import routers as _routers
from kilonova.store.schema import security_groups as _security_groups
from kilonova.store.schema import server_passwords as _server_passwords
from kilonova.store.schema import servers as _servers
from kilonova.store.schema import volumes as _volumes
from kilonova.store.schema.base import metadata

__all__ = ["metadata"]
