"""The source of a disk that QEMU reaches over the network. No password and no key is in a document: those are
libvirt's secrets, of which it has the ids."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree as ET

from kilonova.virt.libvirt.xml.build import element

_CEPH_PORT = "6789"


def rbd(pool: str, image: str, monitors: Sequence[str], user: str, secret: str | None) -> ET.Element:
    """``monitors``: ``address:port``."""
    return element(
        "source",
        *(host(monitor, _CEPH_PORT) for monitor in monitors),
        *auth(user, "ceph", secret),
        protocol="rbd",
        name=f"{pool}/{image}",
    )


def host(address: str, usual_port: str) -> ET.Element:
    name, colon, port = address.rpartition(":")
    if not colon or address.endswith("]"):
        name, port = address, usual_port
    return element("host", name=name.strip("[]"), port=port)


def auth(user: str, kind: str, secret: str | None) -> list[ET.Element]:
    if secret is None:
        return []
    return [element("auth", element("secret", type=kind, uuid=secret), username=user)]
