"""What the Block Storage API says when it refuses, in Cinder's words."""

from __future__ import annotations

from kilonova.domain.errors import BadRequest, NotFound, QuotaExceeded


class OverQuota(QuotaExceeded):
    """Cinder's OverQuota answers 413."""

    status = 413


def volume_not_found(volume_id: str) -> NotFound:
    return NotFound(f"Volume {volume_id} could not be found.")


def snapshot_not_found(snapshot_id: str) -> NotFound:
    return NotFound(f"Snapshot {snapshot_id} could not be found.")


def attachment_not_found(attachment_id: str) -> NotFound:
    return NotFound(f"Volume attachment could not be found with filter: attachment_id = {attachment_id}.")


def type_not_found(id_or_name: str) -> NotFound:
    return NotFound(f"Volume type {id_or_name} could not be found.")


def transfer_not_found(transfer_id: str) -> NotFound:
    return NotFound(f"Transfer {transfer_id} could not be found.")


def invalid_volume(reason: str) -> BadRequest:
    return BadRequest(f"Invalid volume: {reason}")


def invalid_snapshot(reason: str) -> BadRequest:
    return BadRequest(f"Invalid snapshot: {reason}")


def invalid_input(reason: str) -> BadRequest:
    return BadRequest(f"Invalid input received: {reason}")


def wrong_status(what: str, volume_id: str, allowed: object, current: str) -> BadRequest:
    """Of a volume that something cannot be done with now."""
    return invalid_volume(
        f"Volume {volume_id} status must be {allowed} to {what}, but the current status is {current}."
    )
