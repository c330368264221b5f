"""Which filters the lists of servers have, and who may use them.

A filter that the caller may not use, or that nobody knows, is ignored, as Nova does; since 2.75 an unknown
one is refused.
"""

from __future__ import annotations

from kilonova.api.compute import queries
from kilonova.api.http import Request, Version
from kilonova.domain.errors import BadRequest

STRICT: Version = (2, 75)

_FOR_ALL: dict[str, Version] = {
    **dict.fromkeys(
        ("reservation_id", "name", "status", "image", "flavor", "ip", "changes-since", "all_tenants"), (2, 1)
    ),
    "ip6": (2, 5),
    **dict.fromkeys(("tags", "tags-any", "not-tags", "not-tags-any"), (2, 26)),
    "changes-before": (2, 66),
    "locked": (2, 73),
    **dict.fromkeys(
        (
            "availability_zone",
            "config_drive",
            "key_name",
            "created_at",
            "launched_at",
            "terminated_at",
            "power_state",
            "task_state",
            "vm_state",
            "progress",
            "user_id",
        ),
        (2, 83),
    ),
    "hostname": (2, 90),
}
"""Filters that everybody may use, and since when."""

_FOR_ADMINS = frozenset(
    [
        "access_ip_v4",
        "access_ip_v6",
        "auto_disk_config",
        "deleted",
        "description",
        "display_description",
        "display_name",
        "host",
        "image_ref",
        "kernel_id",
        "launch_index",
        "locked_by",
        "node",
        "project_id",
        "ramdisk_id",
        "root_device_name",
        "soft_deleted",
        "tenant_id",
        "uuid",
    ]
) | {name for name, since in _FOR_ALL.items() if since == (2, 83)}
_PAGING = frozenset({"limit", "marker", "sort_key", "sort_dir"})
_NEWER = {name for name, since in _FOR_ALL.items() if (2, 1) < since < (2, 83)} - {"ip6"}
_JOINED = frozenset(
    [
        "block_device_mapping",
        "services",
        "metadata",
        "system_metadata",
        "info_cache",
        "security_groups",
        "pci_devices",
    ]
)


def usable(request: Request) -> set[str]:
    """The filters of this request that count."""
    version, given = request.version, set(request.raw.params)
    joined = sorted(name for name in given if name in _JOINED or name.startswith("_"))
    known = (
        _PAGING | _JOINED | _FOR_ADMINS | {n for n in _FOR_ALL if n not in _NEWER or version >= _FOR_ALL[n]}
    )
    queries.check(request, known, STRICT)
    for_all = {name for name, since in _FOR_ALL.items() if version >= since}
    if not request.context.is_admin:
        return given & for_all
    if joined:
        raise BadRequest(f"Invalid filter field: {joined[0]}.")
    return given & (known - _PAGING)
