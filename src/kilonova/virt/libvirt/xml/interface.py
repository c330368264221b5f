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
        *([] if vif.admin_state_up else [element("link", state="down")]),
        type="ethernet",
    )


def find(domain: str, tap: str) -> ET.Element | None:
    """The NIC on that tap in a domain's document, as libvirt wrote it."""
    return next((nic for nic in _all(domain) if _tap(nic) == tap), None)


def links(domain: str) -> dict[str, bool]:
    """Tap → whether its link is up, of a domain's document."""
    return {tap: _is_up(nic) for nic in _all(domain) if (tap := _tap(nic)) is not None}


def macs(domain: str) -> dict[str, str]:
    """Tap → MAC, of a domain's document."""
    return {tap: mac for nic in _all(domain) if (tap := _tap(nic)) and (mac := _mac(nic))}


def with_link(nic: ET.Element, up: bool) -> ET.Element:
    for link in nic.findall("link"):
        nic.remove(link)
    nic.append(element("link", state="up" if up else "down"))
    return nic


def _all(domain: str) -> list[ET.Element]:
    root = ET.fromstring(domain)  # noqa: S314 - libvirt wrote it
    return root.findall("./devices/interface")


def _tap(nic: ET.Element) -> str | None:
    target = nic.find("target")
    return None if target is None else target.get("dev")


def _mac(nic: ET.Element) -> str | None:
    mac = nic.find("mac")
    return None if mac is None else mac.get("address")


def _is_up(nic: ET.Element) -> bool:
    link = nic.find("link")
    return link is None or link.get("state") != "down"
