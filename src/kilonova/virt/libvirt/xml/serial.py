"""The serial console, written to a log, and the channel of the guest agent."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

from kilonova.virt.libvirt.xml.build import element

_AGENT = "org.qemu.guest_agent.0"


def serial(log: Path) -> ET.Element:
    """A terminal to attach to; all that the guest prints goes to ``log`` as well, attached or not."""
    return element(
        "serial",
        element("log", file=str(log), append="on"),
        element("target", port=0),
        type="pty",
    )


def guest_agent(socket: Path) -> ET.Element:
    return element(
        "channel",
        element("source", mode="bind", path=str(socket)),
        element("target", type="virtio", name=_AGENT),
        type="unix",
    )


def agent_answers(domain: str) -> bool:
    """Whether an agent in the guest has opened its channel, by a domain's document as libvirt wrote it."""
    root = ET.fromstring(domain)  # noqa: S314 - libvirt wrote it
    targets = root.findall("./devices/channel/target")
    return any(one.get("name") == _AGENT and one.get("state") == "connected" for one in targets)
