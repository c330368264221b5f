"""What the API can do beside its core: /extensions. Only what is served is named."""

from __future__ import annotations

from kilonova.api.http import Reply, Request, Route
from kilonova.api.volume import faults
from kilonova.api.volume.state import VolumeAPI

_SERVED = {
    "os-admin-actions": "AdminActions",
    "os-availability-zone": "AvailabilityZones",
    "os-capabilities": "Capabilities",
    "os-extended-snapshot-attributes": "ExtendedSnapshotAttributes",
    "os-quota-class-sets": "QuotaClasses",
    "os-quota-sets": "Quotas",
    "os-services": "Services",
    "os-types-extra-specs": "TypesExtraSpecs",
    "os-types-manage": "TypesManage",
    "os-used-limits": "UsedLimits",
    "os-vol-host-attr": "VolumeHostAttribute",
    "os-vol-image-meta": "VolumeImageMetadata",
    "os-vol-tenant-attr": "VolumeTenantAttribute",
    "os-volume-actions": "VolumeActions",
    "os-volume-transfer": "VolumeTransfer",
    "os-volume-type-access": "VolumeTypeAccess",
    "scheduler-stats": "Scheduler_stats",
}

_NOT_OFFERED = {
    "backups": "backups",
    "clusters": "clusters",
    "consistencygroups": "consistency groups",
    "cgsnapshots": "consistency groups",
    "groups": "groups",
    "group_snapshots": "groups",
    "group_types": "groups",
    "qos-specs": "QoS specs",
    "workers": "workers",
    "manageable_volumes": "volumes that it did not make",
    "manageable_snapshots": "snapshots that it did not make",
    "os-volume-manage": "volumes that it did not make",
    "os-snapshot-manage": "snapshots that it did not make",
    "resource_filters": "list of what lists can be filtered by",
}


def index(_api: VolumeAPI, _request: Request) -> Reply:
    views = [
        {
            "alias": alias,
            "name": name,
            "description": name,
            "updated": "2011-06-23T00:00:00+00:00",
            "links": [],
        }
        for alias, name in _SERVED.items()
    ]
    return Reply(body={"extensions": views})


def _missing(what: str) -> list[Route]:
    def answer(_api: VolumeAPI, _request: Request, **_: str) -> Reply:
        return faults.not_offered(_NOT_OFFERED[what])

    return [
        Route(method, f"/{what}{rest}", answer)
        for method in ("GET", "POST", "PUT", "DELETE")
        for rest in ("", "/{item_id}")
    ]


ROUTES = [
    Route("GET", "/extensions", index),
    *(route for what in _NOT_OFFERED for route in _missing(what)),
]
