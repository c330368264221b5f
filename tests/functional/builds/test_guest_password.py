"""The password that a guest tells its metadata service: kept once, read and cleared by the user."""

from __future__ import annotations

import pytest
from tests.functional.builds.cloud import Cloud
from tests.functional.builds.conftest import MakeCloud

from kilonova.compute import metadata
from kilonova.domain.errors import Conflict, NotFound


@pytest.fixture
def cloud(make_cloud: MakeCloud) -> Cloud:
    return make_cloud(hosts=2)


def test_told_once_read_and_cleared(cloud: Cloud) -> None:
    network = cloud.make_network()
    server_id = cloud.active(network)
    host = cloud.where(server_id)
    path = f"/compute/v2.1/servers/{server_id}/os-server-password"
    assert cloud.ask("GET", path) == (200, {"password": ""})
    (vif,) = host.network.plugged().values()
    address = vif.addresses[0].ip

    def guest_is_told() -> str:
        told = metadata.whose(host.agent._parts, network, address)
        assert told is not None
        return told.password

    told = metadata.whose(host.agent._parts, network, address)
    assert told is not None
    assert told.reservation_id.startswith("r-")
    metadata.keep_password(host.agent._parts, told, "c2VjcmV0")
    with pytest.raises(Conflict):
        metadata.keep_password(host.agent._parts, told, "another")
    assert guest_is_told() == "c2VjcmV0"
    assert cloud.ask("GET", path) == (200, {"password": "c2VjcmV0"})
    assert cloud.ask("DELETE", path) == (204, None)
    assert guest_is_told() == ""
    metadata.keep_password(host.agent._parts, told, "another")

    (other,) = [one for one in cloud.hosts.values() if one is not host]
    assert cloud.ask("DELETE", path)[0] == 204
    with pytest.raises(NotFound):
        metadata.keep_password(other.agent._parts, told, "forged")
    metadata.keep_password(host.agent._parts, told, "last")
    cloud.delete(server_id)
    cloud.gone(server_id)
    assert cloud.sql("SELECT * FROM server_passwords") == []
    assert cloud.ask("GET", path)[0] == 404
