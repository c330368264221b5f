"""A guest gets the address, routes, MTU and name servers of its port, from a server that outlives us."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest
from msgspec import structs
from tests.system.host_network.lab import Lab, dnsmasqs, eventually, make_vif, subnet

from kilonova.config import Config
from kilonova.domain import dhcp_options
from kilonova.domain.dhcp_options import DhcpOption
from kilonova.domain.network import HostRoute
from kilonova.network.host import dhcp

pytestmark = pytest.mark.system


def folder_of(lab: Lab) -> Path:
    return lab.folder / "network" / "networks" / lab.network_id


def test_a_lease_has_what_the_port_and_subnet_say(lab: Lab, tmp_path: Path) -> None:
    lab.subnet = subnet(
        dns_nameservers=["192.0.2.53", "192.0.2.54"],
        host_routes=[HostRoute(destination="10.99.0.0/16", nexthop="10.80.0.9")],
    )
    lease = lab.guest(5, mtu=1442).dhcp(tmp_path)
    assert (lease["ip"], lease["mask"], lease["mtu"]) == ("10.80.0.5", "24", "1442")
    assert (lease["hostname"], lease["domain"]) == ("guest-5", "novalocal")
    assert lease["router"] == "10.80.0.1"
    assert lease["dns"] == "192.0.2.53 192.0.2.54"
    assert lease["lease"] == "86400"
    assert lease["staticroutes"] == "10.99.0.0/16 10.80.0.9 169.254.169.254/32 10.80.0.2 0.0.0.0/0 10.80.0.1"


def test_a_port_is_told_its_own_options(lab: Lab, tmp_path: Path) -> None:
    """Instead of the subnet's, where there are both; not its neighbour; what changes is in the next lease."""
    lab.subnet = subnet(dns_nameservers=["192.0.2.53"])
    guest, neighbour = lab.guest(5), lab.guest(6)
    assert "bootfile" not in guest.dhcp(tmp_path, ask=["bootfile"])

    def tell(**options: str) -> dict[str, str]:
        told = [
            DhcpOption(opt_name=name.replace("_", "-"), opt_value=value) for name, value in options.items()
        ]
        guest.vif = structs.replace(guest.vif, extra_dhcp_opts=told)
        lab.host.plug(guest.vif)
        return guest.dhcp(tmp_path, ask=["bootfile", "tftp", "ntpsrv"])

    lease = tell(
        bootfile_name="pxelinux.0",
        tftp_server="192.0.2.9",
        server_ip_address="192.0.2.10",
        ntp_server="192.0.2.11,192.0.2.12",
        dns_server="192.0.2.54",
        domain_name="example.org",
        mtu="1400",
    )
    # What a boot ROM reads: the file, and where it is, in the header, as the client names both.
    assert (lease.get("boot_file") or lease["bootfile"], lease["siaddr"]) == ("pxelinux.0", "192.0.2.10")
    assert lease.get("sname") or lease["tftp"] == "192.0.2.9"
    assert (lease["ntpsrv"], lease["dns"]) == ("192.0.2.11 192.0.2.12", "192.0.2.54")
    assert (lease["domain"], lease["mtu"]) == ("example.org", "1400")
    assert lease["router"] == "10.80.0.1"
    other = neighbour.dhcp(tmp_path, ask=["bootfile", "tftp", "ntpsrv"])
    assert not {"bootfile", "boot_file", "tftp", "sname", "ntpsrv"} & set(other)
    assert (other["dns"], other["mtu"], other["domain"]) == ("192.0.2.53", "1500", "novalocal")
    pid = dhcp.running(folder_of(lab))
    lab.guest(7)  # the server reads its files anew, and outlives that
    assert guest.dhcp(tmp_path)["domain"] == "example.org"
    assert dhcp.running(folder_of(lab)) == pid
    lease = tell(router="", bootfile_name="other.0", classless_static_route="")
    assert (lease.get("boot_file") or lease["bootfile"]) == "other.0"
    assert not {"router", "staticroutes"} & set(lease)
    assert tell()["router"] == "10.80.0.1"


def test_the_server_starts_with_any_option_that_a_port_may_have(lab: Lab, tmp_path: Path) -> None:
    samples = ["10.0.0.1", "10.0.0.1,10.0.0.2", "12", "example.org", "x/y?z=1&u=~a:b@c%20+d-e", "g:1"]
    samples.append("10.1.0.0/16,10.0.0.9,0.0.0.0/0,10.0.0.1")
    told = [
        option
        for name in [str(number) for number in range(256)]
        for option in [DhcpOption(opt_name=name, opt_value=value) for value in samples]
        if dhcp_options.problem(option) is None
    ]
    names = {dhcp_options.code(option.opt_name) for option in told}
    assert len(names) > 150
    for start in range(0, len(samples)):
        by_name = {option.opt_name: option for option in told[start:] + told[:start]}
        guest = lab.guest(5 + start, extra_dhcp_opts=list(by_name.values()))
        dhcp.stop(folder_of(lab))
        eventually(lambda: lab.host.repair() or dhcp.running(folder_of(lab)))
        assert guest.dhcp(tmp_path)["ip"] == guest.ip
    assert "bad" not in (folder_of(lab) / "dnsmasq.log").read_text()


def test_a_subnet_that_changes_is_served_as_it_is_now(lab: Lab, tmp_path: Path) -> None:
    guest = lab.guest(5)
    assert guest.dhcp(tmp_path)["router"] == "10.80.0.1"

    def become(mtu: int = 1500, **changes: object) -> None:
        (own,) = guest.vif.addresses
        subnet = structs.replace(own.subnet, **changes)
        guest.vif = structs.replace(guest.vif, mtu=mtu, addresses=[structs.replace(own, subnet=subnet)])
        lab.host.plug(guest.vif)

    become(1400, dns_nameservers=["192.0.2.53"], gateway_ip="10.80.0.254")
    lease = guest.dhcp(tmp_path)
    assert (lease["ip"], lease["dns"], lease["router"], lease["mtu"]) == (
        *("10.80.0.5", "192.0.2.53", "10.80.0.254", "1400"),
    )
    guest.run("busybox", "ping", "-c", "1", "-W", "5", "10.80.0.254")
    become(enable_dhcp=False, dhcp_address=None)
    assert dnsmasqs() == []
    become(enable_dhcp=True, dhcp_address="10.80.0.3")
    assert guest.dhcp(tmp_path)["ip"] == "10.80.0.5"
    assert lab.host.repair() == []


def test_a_subnet_without_a_gateway_gives_no_default_route(lab: Lab, tmp_path: Path) -> None:
    lab.subnet = subnet(gateway=False)
    lease = lab.guest(5).dhcp(tmp_path)
    assert "router" not in lease
    assert lease["staticroutes"] == "169.254.169.254/32 10.80.0.2"


def test_each_guest_gets_its_own_and_a_stranger_none(lab: Lab, tmp_path: Path) -> None:
    one, two = lab.guest(5), lab.guest(6)
    stranger = lab.guest(7, port_security=False)
    stranger.run("ip", "link", "set", "eth0", "address", "fa:16:3e:ff:ff:ff")
    assert one.dhcp(tmp_path)["ip"] == "10.80.0.5"
    assert two.dhcp(tmp_path)["ip"] == "10.80.0.6"
    with pytest.raises(AssertionError, match="udhcpc"):
        stranger.dhcp(tmp_path, tries=2)


def test_an_address_goes_to_the_next_port_at_once(lab: Lab, tmp_path: Path) -> None:
    """The server would keep the first one's lease for a day."""
    lab.guest(9)
    first = lab.guest(5)
    assert first.dhcp(tmp_path)["ip"] == "10.80.0.5"
    lab.host.unplug(first.vif.port_id)
    second = make_vif(lab.subnet, 5, lab.network_id)
    second = type(second)(
        **{f: getattr(second, f) for f in second.__struct_fields__} | {"mac": "fa:16:3e:00:aa:05"}
    )
    assert lab.plug(second).dhcp(tmp_path)["ip"] == "10.80.0.5"


def test_two_subnets_on_one_network(lab: Lab, tmp_path: Path) -> None:
    other = subnet("10.81.0.0/24")
    assert lab.guest(5).dhcp(tmp_path)["ip"] == "10.80.0.5"
    second = lab.guest(6, of=other)
    assert second.dhcp(tmp_path)["router"] == "10.81.0.1"
    lab.host.unplug(second.vif.port_id)
    assert len(dnsmasqs()) == 1


def test_no_server_where_the_subnet_wants_none(lab: Lab) -> None:
    lab.subnet = subnet(enable_dhcp=False)
    lab.guest(5)
    assert dnsmasqs() == []


def test_a_killed_server_comes_back_by_itself(lab: Lab, tmp_path: Path) -> None:
    guest = lab.guest(5)
    pid = dhcp.running(folder_of(lab))
    assert pid
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: dhcp.running(folder_of(lab)) not in (None, pid))
    assert guest.dhcp(tmp_path)["ip"] == "10.80.0.5"
    assert lab.host.repair() == [f"network {lab.network_id}: DHCP server started"]
    assert lab.host.repair() == []


def test_a_server_killed_again_and_again_comes_back(lab: Lab) -> None:
    """Not at once each time, but with the next repair()."""
    lab.guest(5)
    lab.host.repair()
    for _ in range(3):
        pid = dhcp.running(folder_of(lab))
        assert pid
        os.kill(pid, signal.SIGKILL)

        def another(than: int = pid) -> bool:
            lab.host.repair()
            return dhcp.running(folder_of(lab)) not in (None, than)

        eventually(another)


def test_the_server_outlives_us_and_is_adopted(lab: Lab, tmp_path: Path) -> None:
    guest = lab.guest(5)
    before = dhcp.running(folder_of(lab))
    lab.host.stop()
    assert guest.dhcp(tmp_path)["ip"] == "10.80.0.5"
    lab.start()
    assert before
    assert dhcp.running(folder_of(lab)) == before
    assert lab.host.repair() == []


def test_its_log_does_not_grow_without_end(lab: Lab, tmp_path: Path) -> None:
    """What a guest asks wrongly is logged however quiet the server is."""
    guest = lab.guest(5)
    lab.host.repair()
    path = folder_of(lab) / "dnsmasq.log"
    with path.open("ab") as file:
        file.write(b"no address\n" * 200_000)
    assert lab.host.repair() == []
    assert path.stat().st_size == 0
    os.kill(dhcp.running(folder_of(lab)) or 0, signal.SIGHUP)  # it says that it reads its files
    eventually(lambda: b"hosts" in path.read_bytes()[:2000])
    assert b"\0" not in path.read_bytes(), "it goes on where the log was cut"
    assert guest.dhcp(tmp_path)["ip"] == "10.80.0.5"


def test_it_is_not_root(lab: Lab) -> None:
    lab.guest(5)
    pid = dhcp.running(folder_of(lab))
    assert Path(f"/proc/{pid}").stat().st_uid != 0


def test_it_is_not_root_in_a_private_folder(
    make_lab: Callable[..., Lab], open_folder: Path, tmp_path: Path
) -> None:
    open_folder.chmod(0o700)
    lab = make_lab(Config(state=str(open_folder)))
    lab.guest(5)
    pid = dhcp.running(folder_of(lab))
    assert Path(f"/proc/{pid}").stat().st_uid != 0
    assert lab.guest(6).dhcp(tmp_path)["ip"] == "10.80.0.6", "it read its files again"
    assert dhcp.running(folder_of(lab)) == pid
    assert open_folder.stat().st_mode & 0o007 == 0


def test_where_no_other_user_can_go_it_is_root(
    make_lab: Callable[..., Lab], open_folder: Path, tmp_path: Path
) -> None:
    open_folder.chmod(0o700)
    lab = make_lab(Config(state=str(open_folder / "network")))
    assert lab.guest(5).dhcp(tmp_path)["ip"] == "10.80.0.5"
    assert Path(f"/proc/{dhcp.running(folder_of(lab))}").stat().st_uid == 0
    assert open_folder.stat().st_mode & 0o777 == 0o700


def test_a_name_that_is_none_is_not_given(lab: Lab, tmp_path: Path) -> None:
    vif = make_vif(lab.subnet, 5, lab.network_id)
    evil = type(vif)(**{f: getattr(vif, f) for f in vif.__struct_fields__} | {"hostname": "a,set:x\n00:11"})
    assert lab.plug(evil).dhcp(tmp_path)["ip"] == "10.80.0.5"


def test_no_dhcp_across_networks(lab: Lab, tmp_path: Path) -> None:
    """Same subnet, same addresses, two networks: each has its own answer."""
    one = lab.guest(5, mtu=1400)
    other = lab.guest(5, network_id=str(uuid4()), mtu=1300)
    assert one.dhcp(tmp_path)["mtu"] == "1400"
    assert other.dhcp(tmp_path)["mtu"] == "1300"
