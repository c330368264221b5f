"""The addresses of a server, out of its stored NICs."""

from __future__ import annotations

import msgspec

from kilonova.api.compute.addresses import addresses, all_ips, extended_addresses
from kilonova.domain.network import Vif, VifAddress, VifSubnet


def test_floating_ips_come_after_the_address_that_they_lead_to() -> None:
    subnet = VifSubnet(id="s", cidr="10.0.0.0/24")
    vif = Vif(
        port_id="p",
        network_id="n",
        network_name="net",
        mac="fa:16:3e:00:00:01",
        addresses=[VifAddress(ip=ip, subnet=subnet) for ip in ("10.0.0.5", "10.0.0.6")],
        floating_ips={"10.0.0.5": ["198.51.100.9"]},
    )
    stored = msgspec.json.encode([vif]).decode()
    assert [one["addr"] for one in addresses(stored)["net"]] == ["10.0.0.5", "198.51.100.9", "10.0.0.6"]
    kinds = [one["OS-EXT-IPS:type"] for one in extended_addresses(stored)["net"]]
    assert kinds == ["fixed", "floating", "fixed"]
    assert all_ips(stored) == ["10.0.0.5", "10.0.0.6"]
