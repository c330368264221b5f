"""Entropy from the host: without it a fresh guest waits for its ssh keys."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from kilonova.virt.libvirt.xml.build import element


def rng() -> ET.Element:
    return element("rng", element("backend", text="/dev/urandom", model="random"), model="virtio")
