"""Volumes that servers have are taken away by the Compute API alone.

Who frees a volume here whose guest still writes to it gives its next server, or project, a disk with two
writers (CVE-2023-2088, OSSA-2023-003). So this is refused, to admins too, in Cinder's words; compute services
may.
"""

from __future__ import annotations

import sqlalchemy as sa

from kilonova.domain.context import RequestContext
from kilonova.domain.errors import Conflict
from kilonova.store import block_devices
from kilonova.store.database import Row


def refuse_if_used(conn: sa.Connection, context: RequestContext, attachment: Row) -> None:
    """Conflict if a server's records have it as one of its disks."""
    if context.is_service or attachment.server_id is None:
        return
    if block_devices.has_attachment(conn, attachment.server_id, attachment.id):
        raise Conflict(f"Detach volume from instance {attachment.server_id} using the Compute API")
