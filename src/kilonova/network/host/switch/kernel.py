"""Does this kernel have Open vSwitch's module? Without it the switch passes packets itself, in user space."""

from __future__ import annotations

import errno
from functools import cache

from pyroute2.netlink import genlmsg
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.generic import GenericNetlinkSocket


@cache
def has_datapath() -> bool:
    """Asked by the module's own interface; the kernel loads it for who asks, if it can."""
    socket = GenericNetlinkSocket()  # type: ignore[no-untyped-call]
    try:
        socket.bind("ovs_datapath", genlmsg)  # type: ignore[no-untyped-call]
    except NetlinkError as error:
        if error.code != errno.ENOENT:
            raise
        return False
    finally:
        socket.close()  # type: ignore[no-untyped-call]
    return True
