"""The screen: VNC on loopback, at a port that libvirt picks."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from kilonova.virt.libvirt.xml.build import element


def vnc() -> ET.Element:
    return element("graphics", type="vnc", port=-1, autoport="yes", listen="127.0.0.1")


def video(model: str) -> ET.Element:
    return element("video", element("model", type=model))
