"""A flow, in ovs-ofctl(8)'s words, and the tables and registers that ours use. Pure.

    table 0     whose is it: a guarded port's goes to GUARD, another one's of ours to FORWARD
    GUARD       what is of the port's own MAC and addresses passes; all else is dropped       (guard_flows.py)
    SENT        the sender's groups, after its zone of connections was asked
    LEAVING     what they let pass is a connection from now on
    FORWARD     by its destination: to guarded ports here, each by way of its own groups
    MANY        called: some of these ports, where there are many: what a flow does has an end at 64 KiB
    REST        and to all others as a switch does it, with VLANs and learning
    COMING      a guarded port: what needs no rule, and a look into its zone
    ARRIVED     the receiver's groups
    ENTERING    what they let pass is a connection from now on, and delivered
    PORT        called: the groups of a port
    GROUP       called: a group, and each group that its rules name
    MEMBERS     called: whether the address in ADDRESS is of the group in REMOTE
    RULES       called: the rules of a group
    MARKER      nobody comes here: a change of it is one of nothing (disturbance.py)
    TRIAL       nor here, where the switch is asked whether it takes a flow at all (guard.py)

SENT and ARRIVED hold every packet of a connection, whichever way it goes, against the rules of the way that
the first one went, and by the addresses and ports of the first one: the switch knows them (ct_nw_src,
ct_tp_dst …). So a rule that goes ends at once all that it had let pass, answers too, in the very bundle.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple
from uuid import UUID

CLASSIFY = 0
GUARD, SENT, LEAVING, FORWARD, REST = 110, 111, 112, 113, 114
COMING, ARRIVED, ENTERING, MANY = 115, 116, 117, 118
PORT, GROUP, MEMBERS, RULES, MARKER, TRIAL = 120, 121, 122, 123, 124, 125
"""Neutron's agent has tables up to 94."""

TAG, ZONE, SEAT, FLAGS = "reg0", "reg1", "reg2", "reg3"
"""The network's local tag; whose rules are asked: its zone of connections, and its number on the bridge."""
PART = "reg13"
"""Which of the flows in MANY."""
OUR_GROUP, REMOTE, ADDRESS, ADDRESS6 = "xxreg1", "xxreg2", "reg12", "xxreg3"

GUARDED, GATE, INWARDS, UNTRACKED, ACCEPTED, MEMBER = (1 << bit for bit in range(6))
"""In FLAGS. The sender is a guarded port, or a network's gate; the rules for what comes in are asked; by what
is in the packet itself, as the switch cannot track its protocol; one of them lets it pass; the address is a
member's."""

ZONE_BITS, SEAT_BITS = "NXM_NX_REG1[0..15]", "NXM_NX_REG2[0..15]"

UNTAGGED = "vlan_tci=0x0000/0x1fff"
"""No VLAN header, as the switch writes it itself. (Without this, ``ip`` is any IP within one, too.)"""


class Flow(NamedTuple):
    """Two with the same table, priority and match cannot both be."""

    table: int
    priority: int
    match: str
    actions: str

    @property
    def place(self) -> str:
        match = f",{self.match}" if self.match else ""
        return f"table={self.table},priority={self.priority}{match}"


def text(owner: int, flow: Flow) -> str:
    return f"cookie={cookie(owner)},{flow.place},actions={flow.actions}"


def cookie(owner: int) -> str:
    """Whose a flow is."""
    return f"0x{owner << 32:x}"


def cookies(owner: int) -> str:
    """Of all flows of this owner, as a match; whatever a release before had in the lower half."""
    return f"{cookie(owner)}/0xffffffff00000000"


def is_set(flags: int, of: int | None = None) -> str:
    """A match: of the flags ``of`` exactly these are set."""
    return f"{FLAGS}=0x{flags:x}/0x{flags if of is None else of:x}"


def load(value: int, register: str, bits: str = "") -> str:
    """An action: the register has that value from now on."""
    return f"load:0x{value:x}->NXM_NX_{register.upper()}[{bits}]"


def put(flags: int, of: int) -> str:
    """An action: of the flags ``of``, which are side by side, exactly these are set from now on."""
    first, last = (of & -of).bit_length() - 1, of.bit_length() - 1
    return load(flags >> first, FLAGS, f"{first}..{last}" if last > first else str(first))


def put_group(group_id: str, register: str) -> str:
    """An action: the group's whole id is there. There is nothing to hand out, and no two are alike."""
    high, low = divmod(UUID(group_id).int, 1 << 64)
    return f"{load(high, register, '64..127')},{load(low, register, '0..63')}"


def number(group_id: str) -> str:
    """For a match."""
    return f"0x{UUID(group_id).int:x}"


def call(*tables: int) -> str:
    return ",".join(f"resubmit(,{table})" for table in tables)


def both(ip: str) -> Iterable[str]:
    """The same match for IPv4 and IPv6: connections are asked for by one of them."""
    return (f"{kind}{ip}" for kind in ("ip", "ipv6"))
