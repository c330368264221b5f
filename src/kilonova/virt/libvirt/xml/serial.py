"""The serial console, written to a log, and the channel of the guest agent."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

from kilonova.virt.libvirt.xml.build import element


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
        element("target", type="virtio", name="org.qemu.guest_agent.0"),
        type="unix",
    )
