"""How the other files write an element."""

from __future__ import annotations

from xml.etree import ElementTree as ET


def element(
    tag: str, *children: ET.Element, text: str | int | None = None, **attributes: str | int
) -> ET.Element:
    """``<tag attributes>text children</tag>``; a trailing underscore of an attribute's name is dropped."""
    made = ET.Element(tag, {name.rstrip("_"): str(value) for name, value in attributes.items()})
    if text is not None:
        made.text = str(text)
    made.extend(children)
    return made


def to_text(root: ET.Element) -> str:
    return ET.tostring(root, encoding="unicode")
