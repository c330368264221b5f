"""libvirt's errors as ours: gone, away, or refused, always with libvirt's own words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import libvirt

from kilonova.domain.errors import BuildFailed, KilonovaError, NotFound, Timeout, Unavailable

_AWAY = frozenset(
    {
        libvirt.VIR_ERR_NO_CONNECT,
        libvirt.VIR_ERR_INVALID_CONN,
        libvirt.VIR_ERR_AUTH_FAILED,
        libvirt.VIR_ERR_AUTH_UNAVAILABLE,
        libvirt.VIR_ERR_RPC,
    }
)
_TRANSPORT = frozenset({libvirt.VIR_FROM_RPC, libvirt.VIR_FROM_REMOTE, libvirt.VIR_FROM_STREAMS})


def is_away(error: libvirt.libvirtError) -> bool:
    """It is the connection that failed, not what was asked over it."""
    return error.get_error_code() in _AWAY or error.get_error_domain() in _TRANSPORT


def translate(error: libvirt.libvirtError, doing: str) -> KilonovaError:
    """``doing`` is what was tried, in words that follow "cannot"."""
    message = f"cannot {doing}: {error.get_error_message() or error}"
    if is_away(error):
        return Unavailable(message)
    code = error.get_error_code()
    if code == libvirt.VIR_ERR_NO_DOMAIN:
        return NotFound(message)
    if code in (libvirt.VIR_ERR_OPERATION_TIMEOUT, libvirt.VIR_ERR_AGENT_UNRESPONSIVE):
        return Timeout(message)
    return BuildFailed(message)


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Inside, a libvirtError becomes NotFound, Unavailable, Timeout or BuildFailed."""
    try:
        yield
    except libvirt.libvirtError as error:
        raise translate(error, doing) from error
