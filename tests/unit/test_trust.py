"""A host speaks for itself alone: what is checked of its messages is all that they say of hosts."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from kilonova.bus.rabbit import trust
from kilonova.domain.errors import Forbidden
from kilonova.domain.messages import FromHost, Ready


def structs(kind: Any) -> Iterator[type[msgspec.Struct]]:
    """A type's structs, its own and those of its fields, however deep."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        yield kind
        for inner in typing.get_type_hints(kind).values():
            yield from structs(inner)
    for argument in typing.get_args(kind):
        yield from structs(argument)


@pytest.mark.parametrize("kind", FromHost.__subclasses__())
def test_a_message_names_its_host_once(kind: type[FromHost]) -> None:
    """Whoever reads a second one reads what nobody has checked."""
    outer, *inner = structs(kind)
    assert "host" in outer.__struct_fields__
    assert [one for one in inner if "host" in one.__struct_fields__] == []


def test_a_host_speaks_to_the_conductor_for_itself() -> None:
    trust.check("compute.h1", "conductor", Ready(host="h1"))
    for topic, host in (("conductor", "h2"), ("scheduler", "h1"), ("compute.h2", "h1")):
        with pytest.raises(Forbidden):
            trust.check("compute.h1", topic, Ready(host=host))
    trust.check("kilonova", "compute.h2", Ready(host="h2"))
