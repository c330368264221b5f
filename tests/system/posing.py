"""A real guest that poses as others: by its address, its MAC, by ARP and as a DHCP server."""

from __future__ import annotations

import shlex

from tests.running import until
from tests.system.cloud import Guest

FOREIGN_MAC = "fa:16:3e:99:99:99"

_POSES = """
pings() { ping -c 1 -W 1 "$@" {victim} >/dev/null 2>&1 && echo yes || echo no; }
comes() { for _ in 1 2 3 4 5 6 7 8 9 10; do [ $(pings) = yes ] && echo yes && return; done; echo no; }
own=$(cat /sys/class/net/{nic}/address)
echo before $(comes)
ip addr add {stranger}/24 dev {nic}
echo address $(pings -I {stranger})
ip addr del {stranger}/24 dev {nic}
ip addr add {gateway}/32 dev {nic}
arping -U -c 2 -w 3 -I {nic} -s {gateway} {gateway} >/dev/null && echo told
ip addr del {gateway}/32 dev {nic}
ip link set {nic} address {mac}
echo mac $(pings)
ip link set {nic} address $own
echo after $(comes)
echo done
"""
_LEASES = """
interface {nic}
start {stranger}
end {stranger}
lease_file /tmp/leases
option subnet 255.255.255.0
"""
_TOLD = 'echo "$1 $serverid $ip" >> /tmp/told'


def stops(poser: Guest, victim: Guest, nic: str = "eth0") -> None:
    """AssertionError unless all of it is stopped, and nothing else. The victim answers pings, and what comes
    by UDP reaches the poser, which boots with nothing but the rules that are to be held against it. ``nic``:
    the poser's on the victim's network."""
    base = victim.address.rpartition(".")[0]
    gateway, stranger = f"{base}.1", f"{base}.222"
    victim.run(f"ping -c 1 -W 20 {gateway}")
    known = _neighbour(victim, gateway)
    words = {"stranger": stranger, "nic": nic}
    _write(poser, "poses", _POSES, **words, victim=victim.address, gateway=gateway, mac=FOREIGN_MAC)
    poser.run("sudo sh /tmp/poses > /tmp/posed 2>&1 < /dev/null &")
    until(lambda: "done" in _posed(poser), 120, "the poser to have tried all", every=0.5)
    assert _posed(poser) == ["before yes", "address no", "told", "mac no", "after yes", "done"]
    assert _neighbour(victim, gateway) == known

    _write(poser, "served", _LEASES, **words)
    poser.run("sudo sh -c 'touch /tmp/leases; udhcpd -f /tmp/served > /tmp/offers 2>&1 < /dev/null &'")
    until(lambda: "started" in poser.run("cat /tmp/offers"), 60, "the other DHCP server")
    _write(victim, "script", "#!/bin/sh\n" + _TOLD)
    asking = "udhcpc -i eth0 -f -n -q -t 10 -T 3 -s /tmp/script"
    victim.run(f"chmod +x /tmp/script; sudo {asking}", within=60)
    until(lambda: "OFFER" in poser.run("cat /tmp/offers"), 60, "it to offer its address")
    told = [line.split() for line in victim.run("cat /tmp/told").splitlines()]
    (bound,) = [words for words in told if words[0] == "bound"]
    assert f" {bound[1]}/" not in poser.run("ip -4 -o addr")
    assert bound[2] == victim.address
    poser.run("sudo killall udhcpd")


def _posed(poser: Guest) -> list[str]:
    """What it found so far; nothing while it is somebody else, and cannot be asked."""
    try:
        return poser.run("cat /tmp/posed", within=20).splitlines()
    except AssertionError:
        return []


def _write(guest: Guest, name: str, text: str, **words: str) -> None:
    for word, value in words.items():
        text = text.replace(f"{{{word}}}", value)
    guest.run(f"printf %s {shlex.quote(text)} > /tmp/{name}")


def _neighbour(guest: Guest, address: str) -> str:
    """The MAC that the guest knows of it."""
    words = guest.run(f"ip neigh show {address}").split()
    return words[words.index("lladdr") + 1]
