"""A NIC on a tap that the network part has made and owns."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from kilonova.domain.network import Vif
from kilonova.virt.libvirt.xml.build import element


def interface(vif: Vif, model: str) -> ET.Element:
    return element(
        "interface",
        element("mac", address=vif.mac),
        element("target", dev=vif.tap, managed="no"),
        element("model", type=model),
        element("mtu", size=vif.mtu),
        type="ethernet",
    )
