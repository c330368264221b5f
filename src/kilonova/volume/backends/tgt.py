"""tgtd, an iSCSI target in user space, asked over its management socket.

Its command ``tgtadm`` would have passwords among its arguments, where every user of the machine reads them.
The socket takes what the command sends (tgt's usr/tgtadm.h): a header, then ``name=value``, with commas
between.
"""

from __future__ import annotations

import os
import re
import socket
import struct
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

from kilonova.domain.errors import Unavailable, VolumeFailed

_TIMEOUT = 20.0
_REQUEST = struct.Struct("@ii64sIiQQIIIIII")
_ANSWER = struct.Struct("@II")
_SYSTEM, _TARGET, _DEVICE, _CONNECTION, _ACCOUNT = 0, 1, 2, 6, 7
_NEW, _DELETE, _SHOW, _BIND, _UNBIND, _UPDATE = 0, 1, 2, 3, 4, 5
_DISK = 0


class Refusal(IntEnum):
    """Answers that are not errors to who asks for what is there already, or is gone."""

    NO_TARGET = 4
    NO_CONNECTION = 7
    TARGET_EXISTS = 9
    LUN_EXISTS = 10
    ACL_EXISTS = 12
    NO_ACL = 13
    USER_EXISTS = 14
    NO_USER = 15


class Session(NamedTuple):
    ident: int
    connection: int
    initiator: str


class Target(NamedTuple):
    """As tgtd has it."""

    tid: int
    name: str
    ready: bool
    sessions: list[Session]
    path: str | None
    """Of LUN 1; None: there is none."""
    accounts: list[str]
    initiators: list[str]


class Tgt:
    """``address``: where tgtd's management socket is, which lets only tgtd's own user in."""

    def __init__(self, address: Path) -> None:
        self._address = address

    def targets(self) -> dict[str, Target]:
        """By name."""
        return {target.name: target for target in _parsed(self._ask(_TARGET, _SHOW, tid=-1))}

    def new_target(self, tid: int, name: str) -> bool:
        """False: there is one of that number."""
        return self._try(_TARGET, _NEW, {Refusal.TARGET_EXISTS}, tid=tid, targetname=name)

    def remove_target(self, tid: int) -> None:
        """Also if somebody is using it."""
        self._try(_TARGET, _DELETE, {Refusal.NO_TARGET}, tid=tid, force=True)

    def new_disk(self, tid: int, path: Path) -> None:
        """Whoever has it is told where it holds nothing, and what he discards is a hole of the file."""
        self._try(_DEVICE, _NEW, {Refusal.LUN_EXISTS}, tid=tid, lun=1, path=str(path), bstype="rdwr")
        self._ask(_DEVICE, _UPDATE, tid=tid, lun=1, **{"targetOps thin_provisioning": "1"})

    def new_account(self, user: str, password: str) -> None:
        self._try(_ACCOUNT, _NEW, {Refusal.USER_EXISTS}, user=user, password=password)

    def bind_account(self, tid: int, user: str) -> None:
        self._ask(_ACCOUNT, _BIND, tid=tid, user=user)

    def remove_account(self, user: str) -> None:
        self._try(_ACCOUNT, _DELETE, {Refusal.NO_USER}, user=user)

    def let_in(self, tid: int, initiator: str) -> None:
        self._try(_TARGET, _BIND, {Refusal.ACL_EXISTS}, tid=tid, **{"initiator-name": initiator})

    def shut_out(self, tid: int, initiator: str) -> None:
        gone = {Refusal.NO_ACL, Refusal.NO_TARGET}
        self._try(_TARGET, _UNBIND, gone, tid=tid, **{"initiator-name": initiator})

    def end(self, tid: int, session: Session) -> None:
        gone = {Refusal.NO_TARGET, Refusal.NO_CONNECTION}
        self._try(_CONNECTION, _DELETE, gone, tid=tid, sid=session.ident, cid=session.connection)

    def set_ready(self, tid: int, ready: bool) -> None:
        """While it is not, what a guest asks is answered with "busy", and asked again."""
        self._ask(_TARGET, _UPDATE, tid=tid, state="ready" if ready else "offline")

    def open_again(self, tid: int, path: Path) -> None:
        """The disk has the size that its file has now. The target must not be ready."""
        self._ask(_DEVICE, _UPDATE, tid=tid, lun=1, online="0")
        self._ask(_DEVICE, _UPDATE, tid=tid, lun=1, path=str(path))

    def _try(self, mode: int, what: int, unless: set[Refusal], **arguments: str | int) -> bool:
        """False: it refused for one of these reasons."""
        number, _ = self._talk(mode, what, arguments)
        if number in unless:
            return False
        _raise_if(number, mode, what)
        return True

    def _ask(self, mode: int, what: int, **arguments: str | int) -> str:
        number, said = self._talk(mode, what, arguments)
        _raise_if(number, mode, what)
        return said

    def _talk(self, mode: int, what: int, arguments: dict[str, str | int]) -> tuple[int, str]:
        numbers = {name: value for name, value in arguments.items() if isinstance(value, int)}
        words = [f"{name}={value}" for name, value in arguments.items() if isinstance(value, str) and value]
        if any("," in word or "\0" in word for word in words):
            raise VolumeFailed("a value with a comma cannot be told to tgtd")
        data = ",".join(words).encode()
        data += b"\0" if data else b""
        fields = [numbers.get(name, 0) for name in ("tid", "sid", "lun", "cid")]
        request = _REQUEST.pack(
            mode, what, b"iscsi", _REQUEST.size + len(data), *fields, 0, _DISK, 0, 0, numbers.get("force", 0)
        )
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as talk:
                talk.settimeout(_TIMEOUT)
                talk.connect(os.fspath(self._address))
                talk.sendall(request + data)
                with talk.makefile("rb") as answer:
                    number, length = _ANSWER.unpack(answer.read(_ANSWER.size))
                    rest = answer.read(max(0, length - _ANSWER.size))
        except (OSError, struct.error) as error:
            raise Unavailable(f"tgtd does not answer at {self._address}: {error}") from error
        return number, rest.rstrip(b"\0").decode(errors="replace")


def _raise_if(number: int, mode: int, what: int) -> None:
    """VolumeFailed; arguments are not told, for a password may be among them."""
    if number:
        raise VolumeFailed(f"tgtd refused (mode {mode}, operation {what}): error {number}")


def _parsed(text: str) -> list[Target]:
    """What ``tgtadm --op show --mode target`` prints."""
    return [_target(part) for part in re.split(r"^(?=Target \d+: )", text, flags=re.MULTILINE) if part]


def _target(text: str) -> Target:
    head = re.match(r"Target (\d+): (.*)", text)
    assert head is not None
    nexuses = re.findall(r"I_T nexus: (\d+)\n\s+Initiator: (\S+) alias: .*\n\s+Connection: (\d+)", text)
    path = re.search(r"LUN: 1\n(?:.*\n)*?\s+Backing store path: (.*)", text)
    return Target(
        tid=int(head[1]),
        name=head[2],
        ready="State: ready" in text,
        sessions=[Session(int(ident), int(connection), name) for ident, name, connection in nexuses],
        path=path[1] if path else None,
        accounts=_lines(text, "Account information:"),
        initiators=_lines(text, "ACL information:"),
    )


def _lines(text: str, heading: str) -> list[str]:
    """Those that are indented under a heading."""
    _, _, rest = text.partition(f"    {heading}\n")
    found = []
    for line in rest.splitlines():
        if not line.startswith(" " * 8):
            break
        found.append(line.strip())
    return found
