"""The Block Storage API v3: OpenStack Cinder's, microversions 3.0 to 3.70.

One file a resource, each with its handlers and its rows of the table of routes. What is not in the table is
not offered and answers 404: backups, groups, clusters, workers, QoS specs, encryption.
"""

from __future__ import annotations

from kilonova.api.http import Route, Service
from kilonova.api.volume import (
    attachments,
    default_types,
    extensions,
    faults,
    messages,
    metadata,
    microversions,
    quotas,
    services,
    snapshots,
    transfers,
    types,
    versions,
    volume_actions,
    volumes,
)
from kilonova.api.volume.routes import both
from kilonova.api.volume.state import VolumeAPI
from kilonova.store import volume_snapshots as snapshot_store
from kilonova.store import volumes as volume_store
from kilonova.volume.builtin import snapshots as snapshot_rules
from kilonova.volume.builtin import volumes as volume_rules

ROUTES: list[Route] = [
    *versions.ROUTES,
    *both(
        [
            *volumes.ROUTES,
            *volume_actions.ROUTES,
            *metadata.routes(
                "/volumes",
                "volume_id",
                "volume:update_volume_metadata",
                volume_rules.find,
                volume_store.change,
            ),
            *snapshots.ROUTES,
            *metadata.routes(
                "/snapshots",
                "snapshot_id",
                "volume:update_snapshot_metadata",
                snapshot_rules.find,
                snapshot_store.change,
            ),
            *attachments.ROUTES,
            *types.ROUTES,
            *default_types.ROUTES,
            *transfers.ROUTES,
            *quotas.ROUTES,
            *services.ROUTES,
            *messages.ROUTES,
            *extensions.ROUTES,
        ]
    ),
]


def service(api: VolumeAPI) -> Service:
    """The API itself, under /volume/v3."""
    return Service(
        name="volume",
        prefix="/volume/v3",
        routes=ROUTES,
        state=api,
        fault=faults.fault,
        negotiate=microversions.negotiate,
        decorate=microversions.decorate,
    )


def versions_service() -> Service:
    """GET /volume: which APIs there are."""
    return Service(
        name="volume-versions",
        prefix="/volume",
        routes=[Route("GET", "/", versions.versions, public=True)],
        state=None,
        fault=faults.fault,
    )
