"""``sort_key`` and ``sort_dir`` of the lists of servers."""

from __future__ import annotations

from collections.abc import Iterable

from kilonova.api.compute.server_filters import STRICT
from kilonova.api.http import Request
from kilonova.domain.errors import BadRequest, Forbidden

SORT_KEYS = {
    **{name: name for name in ("created_at", "launched_at", "terminated_at")},
    **{name: name for name in ("access_ip_v4", "access_ip_v6", "auto_disk_config", "availability_zone")},
    **{name: name for name in ("config_drive", "host", "hostname", "key_name", "launch_index", "locked_by")},
    **{name: name for name in ("power_state", "project_id", "task_state", "updated_at", "user_id")},
    "display_description": "description",
    "display_name": "name",
    "image_ref": "image_id",
    "instance_type_id": "flavor_id",
    "node": "host",
    "uuid": "id",
    "vm_state": "vm_state",
}
_ALIKE = frozenset({"kernel_id", "progress", "ramdisk_id", "root_device_name"})
"""Sort keys in which no server differs from another."""
_IGNORED_SORT_KEYS = frozenset(
    [
        "architecture",
        "cell_name",
        "cleaned",
        "default_ephemeral_device",
        "default_swap_device",
        "deleted",
        "deleted_at",
        "disable_terminate",
        "ephemeral_gb",
        "ephemeral_key_uuid",
        "id",
        "key_data",
        "launched_on",
        "locked",
        "memory_mb",
        "os_type",
        "reservation_id",
        "root_gb",
        "shutdown_terminate",
        "user_data",
        "vcpus",
        "vm_mode",
    ]
)
"""Nova took them once, and takes them until 2.75 without sorting by them."""


def parse(request: Request) -> list[tuple[str, bool]]:
    """(column, descending) of each sort_key with the sort_dir in the same place."""
    keys = [key.strip() for key in request.query_all("sort_key")]
    directions = [word.strip() for word in request.query_all("sort_dir")]
    _check_sort(request, keys, directions)
    default = directions[0] if directions else "desc"
    pairs: Iterable[tuple[str, str]] = (
        (key, directions[i] if i < len(directions) else default)
        for i, key in enumerate(keys or ["created_at"])
    )
    found: dict[str, bool] = {}
    for key, direction in pairs:
        column = "locked_by" if key == "locked" and request.at_least(2, 73) else SORT_KEYS.get(key)
        if column is not None:
            found.setdefault(column, direction == "desc")
    return list(found.items())


def _check_sort(request: Request, keys: list[str], directions: list[str]) -> None:
    allowed = SORT_KEYS.keys() | _ALIKE
    if request.at_least(2, 73):
        allowed = allowed | {"locked"}
    if not request.at_least(*STRICT):
        allowed = allowed | _IGNORED_SORT_KEYS
    for key in keys:
        if key not in allowed:
            raise BadRequest(f"Invalid input for query parameters sort_key. '{key}' is no key to sort by")
        if key in {"host", "node"} and not request.context.is_admin:
            raise Forbidden(f"Only administrators can sort servers by {key}")
    for direction in directions:
        if direction not in {"asc", "desc"}:
            raise BadRequest(f"Unknown sort direction '{direction}', must be one of: asc, desc")
    if len(directions) > max(1, len(keys)):
        raise BadRequest("There are more sort directions than sort keys")
