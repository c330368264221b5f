"""DHCP options of a port: which there may be, and with which values. Pure.

What stands here is what the DHCP server (dnsmasq) takes: it does not start with a line that it does not know,
so that one port's option could keep a network from its addresses.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network

import msgspec

MAX_NAME, MAX_VALUE = 64, 255


class DhcpOption(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``opt_value`` None: in a request alone, where it takes the option away."""

    opt_name: str
    opt_value: str | None
    ip_version: int = 4


def problem(option: DhcpOption) -> str | None:
    """Why the option cannot be given to a guest; None: it can."""
    if option.ip_version != 4:
        return "only options of IPv4 are offered"
    check = _check_of(option.opt_name)
    if check is None:
        return f"there is no option '{option.opt_name[:MAX_NAME]}' that a port may have"
    value = option.opt_value or ""
    if not value:
        return None if option.opt_name in BLANK else f"'{option.opt_name}' needs a value"
    if len(value) > MAX_VALUE or not check(value):
        return f"'{value[:MAX_VALUE]}' is no value of '{option.opt_name}'"
    return None


def code(name: str) -> str:
    """The option as dnsmasq calls it: ``option:router``; those without a name by their number."""
    known = _NAMES.get(name, name)
    return known if known.isdecimal() else f"option:{known}"


# Values
def _addresses(value: str) -> bool:
    return all(_is(IPv4Address, one) for one in value.split(","))


def _address(value: str) -> bool:
    return _is(IPv4Address, value)


def _routes(value: str) -> bool:
    """``10.1.0.0/16,10.0.0.9,…``"""
    parts = value.split(",")
    pairs = list(zip(parts[::2], parts[1::2], strict=False))
    return len(parts) % 2 == 0 and all(
        "/" in net and _is(IPv4Network, net) and _is(IPv4Address, hop) for net, hop in pairs
    )


def _text(value: str) -> bool:
    """One word, without what has a meaning in dnsmasq's files."""
    return re.fullmatch(r"[A-Za-z0-9._~:/?&=%@+-]+", value) is not None


def _domains(value: str) -> bool:
    return all(_domain(one) for one in value.split(","))


def _domain(value: str) -> bool:
    label = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
    return re.fullmatch(rf"{label}(\.{label})*", value) is not None


def _number(octets: int) -> Callable[[str], bool]:
    def check(value: str) -> bool:
        return value.isascii() and value.isdecimal() and len(value) <= 10 and int(value) < 256**octets

    return check


def _own(value: str) -> bool:
    """Of options without a name: addresses, a number, or text that cannot be taken for bytes."""
    number = _number(4)
    return _addresses(value) or number(value) or (_text(value) and re.search("[g-zG-Z]", value) is not None)


def _is(kind: Callable[[str], object], value: str) -> bool:
    try:
        kind(value)
    except ValueError:
        return False
    return True


Check = Callable[[str], bool]

_OPTIONS: dict[int, tuple[str, Check]] = {
    3: ("router", _addresses),
    6: ("dns-server", _addresses),
    7: ("log-server", _addresses),
    9: ("lpr-server", _addresses),
    13: ("boot-file-size", _number(2)),
    15: ("domain-name", _domain),
    16: ("swap-server", _address),
    17: ("root-path", _text),
    18: ("extension-path", _text),
    23: ("default-ttl", _number(1)),
    26: ("mtu", _number(2)),
    35: ("arp-timeout", _number(4)),
    37: ("tcp-ttl", _number(1)),
    38: ("tcp-keepalive", _number(4)),
    40: ("nis-domain", _domain),
    41: ("nis-server", _addresses),
    42: ("ntp-server", _addresses),
    44: ("netbios-ns", _addresses),
    45: ("netbios-dd", _addresses),
    48: ("x-windows-fs", _addresses),
    49: ("x-windows-dm", _addresses),
    64: ("nis+-domain", _domain),
    65: ("nis+-server", _addresses),
    66: ("tftp-server", _text),
    67: ("bootfile-name", _text),
    69: ("smtp-server", _addresses),
    70: ("pop3-server", _addresses),
    71: ("nntp-server", _addresses),
    119: ("domain-search", _domains),
    121: ("classless-static-route", _routes),
    150: ("tftp-server-address", _addresses),
    255: ("server-ip-address", _address),
}
_NAMES = {str(number): name for number, (name, _) in _OPTIONS.items() if number != 255}
_CHECKS = dict(_OPTIONS.values())

BLANK = ("router", "classless-static-route", "3", "121")
"""What may be empty: then the guest is not told it."""


def _check_of(name: str) -> Check | None:
    if name in _NAMES or name in _CHECKS:
        return _CHECKS[_NAMES.get(name, name)]
    site = name.isascii() and name.isdecimal() and len(name) == 3 and 128 <= int(name) <= 254
    return _own if site else None
