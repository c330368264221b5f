"""NICs that come to a server and leave it: what the user, the guest, the host and the records have of it."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

import pytest
from tests.functional.builds.cloud import PATIENCE, Cloud
from tests.functional.builds.conftest import MakeCloud
from tests.running import until

from kilonova.cancel import Cancel
from kilonova.domain.errors import BuildFailed, KilonovaError, NotFound, StaleEpoch, Unavailable
from kilonova.domain.messages import ServerRef
from kilonova.domain.network import tap_name
from kilonova.domain.servers import PowerState
from kilonova.engine import interfaces

SERVERS = "/compute/v2.1/servers"
PORTS = "/networking/v2.0/ports"


class Nics:
    """One server's, from all sides."""

    def __init__(self, cloud: Cloud, server_id: str) -> None:
        self.cloud = cloud
        self.id = server_id

    @property
    def path(self) -> str:
        return f"{SERVERS}/{self.id}/os-interface"

    def attach(self, caller: str = "member", **asked: Any) -> Any:
        return self.cloud.ask("POST", self.path, {"interfaceAttachment": asked}, caller)

    def attached(self, **asked: Any) -> str:
        status, answer = self.attach(**asked)
        assert status == 200, answer
        return str(answer["interfaceAttachment"]["port_id"])

    def detach(self, port_id: str, caller: str = "member") -> Any:
        return self.cloud.ask("DELETE", f"{self.path}/{port_id}", caller=caller)

    def listed(self) -> list[str]:
        return [nic["port_id"] for nic in self.cloud.ask("GET", self.path)[1]["interfaceAttachments"]]

    def of_guest(self) -> set[str]:
        return set(self.cloud.where(self.id).driver.interfaces(self.id))

    def on_host(self) -> set[str]:
        return set(self.cloud.where(self.id).network.plugged())

    def recorded(self) -> list[str]:
        with self.cloud.db.read() as conn:
            from kilonova.store import servers

            return [vif.port_id for vif in servers.for_host(conn, self.id).vifs]

    def are(self, *ports: str) -> None:
        """Everybody has these, in this order."""
        assert self.listed() == list(ports)
        assert self.recorded() == list(ports)
        assert self.on_host() == set(ports)
        assert self.of_guest() == {tap_name(port) for port in ports}
        assert self.cloud.unexplained() == []

    def port(self, port_id: str) -> Any:
        status, answer = self.cloud.ask("GET", f"{PORTS}/{port_id}", caller="admin")
        return answer["port"] if status == 200 else None

    def make_port(self, network: str, **more: Any) -> str:
        status, made = self.cloud.ask("POST", PORTS, {"port": {"network_id": network, **more}})
        assert status == 201, made
        return str(made["port"]["id"])


@pytest.fixture
def cloud(make_cloud: MakeCloud) -> Cloud:
    return make_cloud()


@pytest.fixture
def network(cloud: Cloud) -> str:
    return cloud.make_network()


@pytest.fixture
def nics(cloud: Cloud, network: str) -> Nics:
    return Nics(cloud, cloud.active(network))


def test_a_nic_comes_and_goes(nics: Nics, network: str) -> None:
    (first,) = nics.listed()
    status, answer = nics.attach(net_id=network, tag="red")
    assert status == 200, answer
    shown = answer["interfaceAttachment"]
    port = nics.port(shown["port_id"])
    assert shown == {
        "net_id": network,
        "port_id": port["id"],
        "mac_addr": port["mac_address"],
        "port_state": "ACTIVE",
        "fixed_ips": port["fixed_ips"],
        "tag": "red",
    }
    assert (port["device_id"], port["device_owner"]) == (nics.id, "compute:nova")
    assert (port["binding:host_id"], port["status"]) == ("h1", "ACTIVE")
    assert nics.cloud.ask("GET", f"{nics.path}/{port['id']}")[1] == answer
    nics.are(first, port["id"])
    server = nics.cloud.server(nics.id)
    assert len(server["addresses"]["n"]) == 2
    assert (server["status"], server["OS-EXT-STS:task_state"]) == ("ACTIVE", None)

    assert nics.detach(port["id"]) == (202, None)
    nics.cloud.settled(nics.id)
    nics.are(first)
    assert nics.port(port["id"]) is None
    done = [
        (one["action"], [event["event"] for event in one["events"]]) for one in nics.cloud.actions(nics.id)
    ]
    assert done[1:] == [
        ("attach_interface", ["plug_vifs", "attach_interface"]),
        ("detach_interface", ["detach_interface", "unplug_vifs"]),
    ]


def test_a_users_port_comes_and_survives(nics: Nics, network: str) -> None:
    (first,) = nics.listed()
    port = nics.make_port(network, name="mine")
    assert nics.attached(port_id=port) == port
    nics.are(first, port)
    assert nics.detach(port) == (202, None)
    nics.cloud.settled(nics.id)
    nics.are(first)
    free = nics.port(port)
    assert (free["device_id"], free["device_owner"], free["binding:host_id"]) == ("", "", "")
    assert (free["status"], free["binding:vif_type"], free["name"]) == ("DOWN", "unbound", "mine")

    made = nics.attached(net_id=network)
    assert nics.attached(port_id=port) == port
    nics.cloud.delete(nics.id)
    nics.cloud.gone(nics.id)
    assert nics.port(made) is None
    assert nics.port(port)["device_id"] == ""
    assert nics.cloud.hosts["h1"].is_empty()


def test_a_fixed_address_is_had(nics: Nics, network: str) -> None:
    port = nics.attached(net_id=network, fixed_ips=[{"ip_address": "10.91.0.77"}])
    assert [fixed["ip_address"] for fixed in nics.port(port)["fixed_ips"]] == ["10.91.0.77"]


def test_without_a_body_it_is_the_projects_only_network(nics: Nics, network: str) -> None:
    status, answer = nics.cloud.ask("POST", nics.path)
    assert (status, answer["interfaceAttachment"]["net_id"]) == (200, network)
    nics.cloud.make_network()
    status, answer = nics.attach()
    assert status == 400
    assert "More than one possible network" in answer["badRequest"]["message"]


@pytest.mark.parametrize("state", ["os-stop", "pause"])
def test_a_guest_that_does_not_run_gets_it_too(nics: Nics, network: str, state: str) -> None:
    (first,) = nics.listed()
    assert nics.cloud.act(nics.id, state) == 202
    before = nics.cloud.settled(nics.id)
    port = nics.attached(net_id=network)
    nics.are(first, port)
    assert nics.cloud.server(nics.id)["status"] == before["status"]
    if state == "os-stop":
        other = nics.attached(net_id=network)
        assert nics.detach(other) == (202, None)
        assert nics.cloud.act(nics.id, "os-start") == 202
        assert nics.cloud.settled(nics.id)["status"] == "ACTIVE"
        nics.are(first, port)


def test_a_paused_guest_keeps_it(nics: Nics) -> None:
    (first,) = nics.listed()
    assert nics.cloud.act(nics.id, "pause") == 202
    nics.cloud.settled(nics.id)
    assert nics.detach(first) == (202, None)
    assert nics.cloud.settled(nics.id)["status"] == "PAUSED"
    nics.are(first)
    last = nics.cloud.actions(nics.id)[-1]
    assert last["action"] == "detach_interface"
    assert "is paused" in last["message"]


def test_what_nova_refuses_is_refused(nics: Nics, network: str) -> None:
    cloud = nics.cloud
    (first,) = nics.listed()
    nobody = "12345678-1234-1234-1234-123456789abc"
    free = nics.make_port(network)
    for asked, status, words in [
        ({"net_id": network, "port_id": free}, 400, "both"),
        ({"fixed_ips": [{"ip_address": "10.91.0.9"}]}, 400, "network_id"),
        ({"net_id": nobody}, 404, nobody),
        ({"port_id": nobody}, 404, nobody),
        ({"port_id": first}, 409, "in use"),
        ({"net_id": network, "fixed_ips": [{"ip_address": "10.92.0.9"}]}, 400, "10.92.0.9"),
        ({"net_id": network, "fixed_ips": [{"ip_address": "10.91.0.1"}]}, 400, "in use"),
        ({"net_id": network, "fixed_ips": []}, 400, "fixed_ips"),
        ({"net_id": "x"}, 400, "net_id"),
        ({"net_id": network, "tag": "a,b"}, 400, "tag"),
        ({"nonsense": 1}, 400, "nonsense"),
    ]:
        got, answer = nics.attach(**asked)  # type: ignore[arg-type]
        assert (got, words in str(answer)) == (status, True), (asked, answer)
    address = nics.port(first)["fixed_ips"][0]["ip_address"]
    assert nics.attach(net_id=network, fixed_ips=[{"ip_address": address}])[0] == 409
    assert nics.detach(free)[0] == 404
    assert nics.detach(nobody)[0] == 404
    assert cloud.ask("GET", f"{nics.path}/{free}")[0] == 404
    assert cloud.ask("POST", f"{SERVERS}/{nobody}/os-interface", {})[0] == 404
    nics.are(first)


def test_quota_and_empty_pools_are_said(nics: Nics) -> None:
    cloud = nics.cloud
    _, made = cloud.ask("POST", "/networking/v2.0/networks", {"network": {"name": "small"}})
    small = made["network"]["id"]
    subnet = {"network_id": small, "cidr": "10.92.0.0/30", "ip_version": 4}
    assert cloud.ask("POST", "/networking/v2.0/subnets", {"subnet": subnet})[0] == 201
    status, answer = nics.attach(net_id=small)
    assert (status, "No fixed IP addresses available" in str(answer)) == (400, True)
    quota = {"quota": {"port": 1}}
    assert cloud.ask("PUT", f"/networking/v2.0/quotas/{'a' * 32}", quota, "admin")[0] == 200
    assert nics.attach(net_id=nics.port(nics.listed()[0])["network_id"])[0] == 403


def test_states_that_forbid_it(nics: Nics, network: str) -> None:
    cloud = nics.cloud
    (first,) = nics.listed()
    assert cloud.act(nics.id, "lock") == 202
    assert nics.attach(net_id=network)[0] == 409
    assert nics.detach(first)[0] == 409
    assert nics.attach("admin", net_id=network)[0] == 200
    assert cloud.act(nics.id, "unlock") == 202
    assert cloud.act(nics.id, "suspend") == 202
    cloud.settled(nics.id)
    status, answer = nics.attach(net_id=network)
    assert (status, "while it is in vm_state suspended" in str(answer)) == (409, True)
    assert nics.detach(first)[0] == 409


def test_only_one_thing_happens_to_a_server(nics: Nics, network: str) -> None:
    cloud = nics.cloud
    gate = cloud.where(nics.id).driver.gate("attach_interface")
    answers: list[Any] = []
    threads = [threading.Thread(target=lambda: answers.append(nics.attach(net_id=network))) for _ in range(2)]
    for thread in threads:
        thread.start()
    gate.wait_until_reached()
    assert cloud.act(nics.id, "os-stop") == 409
    assert (
        cloud.ask("POST", f"{SERVERS}/{nics.id}/action", {"os-resetState": {"state": "error"}}, "admin")[0]
        == 409
    )
    gate.open()
    for thread in threads:
        thread.join(PATIENCE)
    assert [status for status, _ in answers] == [200, 200], answers
    assert len(nics.listed()) == 3
    nics.are(*nics.listed())


def test_a_host_that_cannot_attach_leaves_all_as_it_was(nics: Nics, network: str) -> None:
    (first,) = nics.listed()
    mine = nics.make_port(network)
    driver = nics.cloud.where(nics.id).driver
    for asked in ({"net_id": network}, {"port_id": mine}):
        driver.failures["attach_interface"] = [BuildFailed("no slot is free")]
        status, answer = nics.attach(**asked)
        assert status == 500
        assert "no slot is free" in answer["computeFault"]["message"]
        assert nics.cloud.server(nics.id)["status"] == "ACTIVE"
        nics.are(first)
    assert nics.port(mine)["device_id"] == ""


def test_a_guest_that_does_not_let_go_keeps_it(nics: Nics) -> None:
    (first,) = nics.listed()
    nics.cloud.where(nics.id).driver.failures["detach_interface"] = [BuildFailed("it did not let go")]
    assert nics.detach(first) == (202, None)
    assert nics.cloud.settled(nics.id)["status"] == "ACTIVE"
    nics.are(first)
    assert nics.cloud.actions(nics.id)[-1]["message"].endswith("it did not let go")


def test_a_call_that_was_lost_is_done_by_the_sweeper(nics: Nics, network: str) -> None:
    (first,) = nics.listed()
    nics.cloud.bus.refused["change_interfaces"] = 1
    status, answer = nics.attach(net_id=network)
    assert status == 504, answer
    nics.cloud.leases_run_out()
    nics.cloud.sweep()
    nics.cloud.settled(nics.id)
    second = nics.listed()[1]
    nics.are(first, second)
    nics.cloud.bus.refused["change_interfaces"] = 1
    assert nics.detach(second) == (202, None)
    nics.cloud.leases_run_out()
    nics.cloud.sweep()
    nics.cloud.settled(nics.id)
    nics.are(first)


def test_an_answer_that_was_lost_is_found_in_the_record(nics: Nics, network: str) -> None:
    nics.cloud.bus.unanswered["change_interfaces"] = 1
    assert nics.attach(net_id=network)[0] == 200
    nics.are(*nics.listed())


def test_a_host_that_is_down_is_said_so_and_nothing_is_done(nics: Nics, network: str) -> None:
    (first,) = nics.listed()
    nics.cloud.where(nics.id).vanish()
    assert nics.attach(net_id=network)[0] == 503
    assert nics.listed() == [first]
    assert nics.cloud.unexplained() == []


def test_an_attach_past_its_deadline_is_taken_back(nics: Nics, network: str) -> None:
    (first,) = nics.listed()
    nics.cloud.bus.refused["change_interfaces"] = 1
    assert nics.attach(net_id=network)[0] == 504
    nics.cloud.deadlines_pass()
    nics.cloud.sweep()
    assert nics.cloud.settled(nics.id)["status"] == "ACTIVE"
    nics.are(first)


def test_a_delete_ends_an_attach(nics: Nics, network: str) -> None:
    cloud = nics.cloud
    gate = cloud.where(nics.id).driver.gate("attach_interface")
    attaching = threading.Thread(target=lambda: nics.attach(net_id=network))
    attaching.start()
    gate.wait_until_reached()
    cloud.delete(nics.id)
    gate.open()
    attaching.join(PATIENCE)
    cloud.gone(nics.id)
    assert cloud.hosts["h1"].is_empty()
    assert cloud.unexplained() == []
    assert cloud.sql("SELECT id FROM ports WHERE device_owner LIKE 'compute:%'") == []


def test_a_host_finds_what_the_record_does_not_know(nics: Nics, network: str) -> None:
    """As after a kill -9 between any two acts: the next comparison puts it right, in both directions."""
    (first,) = nics.listed()
    second = nics.attached(net_id=network)
    host = nics.cloud.where(nics.id)
    vif = host.network.plugged()[second]
    with nics.cloud.db.write() as conn:
        from kilonova.store import servers

        nics.cloud.network.detach(nics.id, second)
        servers.set_vifs(conn, nics.id, nics.cloud.network.vifs([nics.id])[nics.id])
    host.repairs.tick()
    until(lambda: nics.of_guest() == {tap_name(first)}, PATIENCE, "the stray to go")
    nics.are(first)

    host.driver.detach_interface(nics.id, tap_name(first), 1.0, threading.Event())  # type: ignore[arg-type]
    host.network.unplug(first)
    host.repairs.tick()
    until(lambda: nics.of_guest() == {tap_name(first)}, PATIENCE, "the lost one to be back")
    nics.are(first)
    assert vif.port_id == second
    assert host.driver.guest(nics.id).power_state is PowerState.RUNNING  # type: ignore[union-attr]


def test_a_port_that_is_deleted_leaves_its_server(nics: Nics, network: str) -> None:
    (first,) = nics.listed()
    second = nics.attached(net_id=network)
    assert nics.cloud.ask("DELETE", f"{PORTS}/{second}") == (204, None)
    assert nics.listed() == nics.recorded() == [first]
    assert len(nics.cloud.server(nics.id)["addresses"]["n"]) == 1
    until(lambda: nics.of_guest() == {tap_name(first)}, PATIENCE, "the NIC to go")
    nics.are(first)


def test_a_port_that_is_deleted_while_its_server_is_busy(nics: Nics, network: str) -> None:
    (first,) = nics.listed()
    second = nics.attached(net_id=network)
    gate = nics.cloud.where(nics.id).driver.gate("reboot")
    assert nics.cloud.act(nics.id, "reboot", {"type": "HARD"}) == 202
    gate.wait_until_reached()
    assert nics.cloud.ask("DELETE", f"{PORTS}/{second}")[0] == 204
    gate.open()
    nics.cloud.settled(nics.id)
    until(lambda: nics.on_host() == {first}, PATIENCE, "the port to go")
    until(lambda: nics.of_guest() == {tap_name(first)}, PATIENCE, "the NIC to go")
    nics.are(first)


def test_a_port_of_a_suspended_server_stays(nics: Nics) -> None:
    (first,) = nics.listed()
    assert nics.cloud.act(nics.id, "suspend") == 202
    nics.cloud.settled(nics.id)
    assert nics.cloud.ask("DELETE", f"{PORTS}/{first}")[0] == 409
    nics.are(first)


def test_a_port_that_changes_is_followed_by_its_host(nics: Nics) -> None:
    (port,) = nics.listed()
    host = nics.cloud.where(nics.id)
    change = {"fixed_ips": [{"subnet_id": nics.port(port)["fixed_ips"][0]["subnet_id"]}] * 2}
    status, answer = nics.cloud.ask("PUT", f"{PORTS}/{port}", {"port": change})
    assert status == 200, answer
    addresses = [fixed["ip_address"] for fixed in answer["port"]["fixed_ips"]]
    assert len(addresses) == 2

    def plugged() -> list[str]:
        return [own.ip for own in host.network.plugged()[port].addresses]

    until(lambda: plugged() == addresses, PATIENCE, "the host to follow")
    assert [one["addr"] for one in nics.cloud.server(nics.id)["addresses"]["n"]] == addresses
    for up in (False, True):
        body = {"port": {"admin_state_up": up}}
        assert nics.cloud.ask("PUT", f"{PORTS}/{port}", body)[0] == 200
        until(lambda up=up: host.driver.interfaces(nics.id) == {tap_name(port): up}, PATIENCE, "the link")
    assert nics.cloud.ask("PUT", f"{PORTS}/{port}", {"port": {"mac_address": "fa:16:3e:0:0:1"}})[0] == 400
    assert nics.cloud.ask("PUT", f"{PORTS}/{port}", {"port": {"device_id": ""}})[0] == 409


def test_fixed_ips_come_and_go_by_the_old_actions(nics: Nics, network: str) -> None:
    (port,) = nics.listed()
    host = nics.cloud.where(nics.id)

    def act(version: str, **action: Any) -> Any:
        headers = {"OpenStack-API-Version": f"compute {version}"}
        return nics.cloud.ask("POST", f"{SERVERS}/{nics.id}/action", action, headers=headers)

    before = nics.port(port)["fixed_ips"]
    assert act("2.43", addFixedIp={"networkId": network}) == (202, None)
    after = nics.port(port)["fixed_ips"]
    assert (len(after), after[:1]) == (2, before)
    until(lambda: len(host.network.plugged()[port].addresses) == 2, PATIENCE, "the host to follow")
    assert act("2.43", removeFixedIp={"address": after[1]["ip_address"]}) == (202, None)
    assert nics.port(port)["fixed_ips"] == before
    assert act("2.43", removeFixedIp={"address": "10.91.0.250"})[0] == 400
    assert act("2.43", removeFixedIp={"address": "nowhere"})[0] == 400
    assert act("2.43", addFixedIp={"networkId": "nowhere"})[0] == 400
    assert act("2.44", addFixedIp={"networkId": network})[0] == 404
    nics.are(port)


class TestExternalEvents:
    PATH = "/compute/v2.1/os-server-external-events"

    def tell(self, nics: Nics, *events: Any, caller: str = "admin") -> Any:
        told = [{"server_uuid": nics.id, **event} for event in events]
        return nics.cloud.ask("POST", self.PATH, {"events": told}, caller)

    def codes(self, nics: Nics, *events: Any) -> Any:
        status, answer = self.tell(nics, *events)
        return status, [(one["code"], one["status"]) for one in answer["events"]]

    def test_codes(self, nics: Nics) -> None:
        nobody = "12345678-1234-1234-1234-123456789abc"
        assert self.codes(nics, {"name": "network-changed"}) == (200, [(200, "completed")])
        assert self.codes(
            nics,
            {"name": "network-vif-plugged", "tag": nics.listed()[0]},
            {"name": "network-changed", "server_uuid": nobody},
            {"name": "power-update"},
            {"name": "power-update", "tag": "SIDEWAYS"},
            {"name": "accelerator-request-bound", "tag": "x"},
        ) == (207, [(200, "completed"), (404, "failed"), (400, "failed"), (400, "failed"), (422, "failed")])
        assert self.tell(nics, {"name": "network-changed"}, caller="member")[0] == 403

    def test_a_server_that_goes_meanwhile_is_no_failure_of_the_others(
        self, nics: Nics, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def gone(_parts: Any, server_id: str) -> None:
            raise NotFound(f"Instance {server_id} could not be found.")

        monkeypatch.setattr(interfaces, "refresh", gone)
        port = nics.listed()[0]
        events = ({"name": "network-vif-deleted", "tag": port}, {"name": "network-changed"})
        assert self.codes(nics, *events) == (207, [(200, "completed"), (404, "failed")])

    def test_what_is_wrong_is_refused(self, nics: Nics) -> None:
        assert self.tell(nics)[0] == 400
        assert self.tell(nics, {"name": "nonsense"})[0] == 400
        assert self.tell(nics, {"name": "network-changed", "more": 1})[0] == 400

    def test_a_deleted_vif_leaves(self, nics: Nics, network: str) -> None:
        (first,) = nics.listed()
        mine = nics.make_port(network)
        nics.attached(port_id=mine)
        event = {"name": "network-vif-deleted", "tag": mine}
        assert self.codes(nics, event) == (200, [(200, "completed")])
        assert nics.port(mine)["device_id"] == ""
        until(lambda: nics.of_guest() == {tap_name(first)}, PATIENCE, "the NIC to go")
        nics.are(first)

    def test_power(self, nics: Nics) -> None:
        for tag, status in (("POWER_OFF", "SHUTOFF"), ("POWER_OFF", "SHUTOFF"), ("POWER_ON", "ACTIVE")):
            assert self.codes(nics, {"name": "power-update", "tag": tag})[0] == 200
            assert nics.cloud.settled(nics.id)["status"] == status
        assert nics.cloud.act(nics.id, "pause") == 202
        nics.cloud.settled(nics.id)
        assert self.codes(nics, {"name": "power-update", "tag": "POWER_OFF"}) == (207, [(422, "failed")])


def test_a_word_that_comes_during_a_comparison_is_not_forgotten(nics: Nics) -> None:
    agent = nics.cloud.where(nics.id).agent
    with agent._running.reserved(nics.id) as free:
        assert free
        agent.refresh_interfaces(ServerRef(server_id=nics.id))
        assert agent._to_refresh == {nics.id}
    agent._compare()
    assert agent._to_refresh == set()


def test_a_word_that_nobody_could_answer_is_not_forgotten(nics: Nics) -> None:
    """The conductor is away as the host asks what the server's NICs are."""
    host = nics.cloud.where(nics.id)
    host.agent._to_refresh.add(nics.id)
    nics.cloud.bus.refused["server_record"] = 1
    with pytest.raises(Unavailable):
        host.agent._tidy()
    assert host.agent._to_refresh == {nics.id}
    host.repairs.tick()
    assert host.agent._to_refresh == set()


def test_a_nic_that_leaves_during_a_comparison_does_not_come_back(
    nics: Nics, network: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list of all servers was asked for before; the address may be another's by now."""
    (first,) = nics.listed()
    second = nics.attached(net_id=network)
    cloud, host = nics.cloud, nics.cloud.where(nics.id)
    call, plugged = cloud.bus.call, []

    def late(topic: str, method: str, *words: Any, **more: Any) -> Any:
        answer = call(topic, method, *words, **more)
        if method == "host_servers":
            assert nics.detach(second)[0] == 202
            until(lambda: nics.listed() == [first], PATIENCE, "the NIC to go")
            until(lambda: not host.agent._running.busy(nics.id), PATIENCE, "the work to end")
            monkeypatch.setattr(host.network, "plug", lambda vif: plugged.append(vif.port_id))
        return answer

    monkeypatch.setattr(cloud.bus, "call", late)
    host.agent._compare()
    assert plugged == [first]


def test_the_network_is_mended_while_there_is_no_conductor(cloud: Cloud) -> None:
    """An agent that begins knows from its own records what should be."""
    (host,) = cloud.hosts.values()
    host.agent.stop()
    looks: list[str] = []
    host.network.repair = lambda: looks.append("look") or []  # type: ignore[method-assign,func-returns-value]
    cloud.bus.refused["report"] = 10**6

    def begins() -> None:
        with suppress(StaleEpoch):
            host.start()

    before = host.agent
    waiting = threading.Thread(target=begins)
    waiting.start()
    try:
        until(lambda: host.agent is not before and host.mends._functions, PATIENCE, "the agent to begin")
        host.mends.tick()
        assert looks == ["look"]
        assert waiting.is_alive()
    finally:
        host.agent.stop()
        waiting.join()
        cloud.bus.refused["report"] = 0


@pytest.mark.parametrize(
    "act", ["unplug_vifs", "detach_interface", "set_link", "plug_vifs", "attach_interface"]
)
def test_who_is_cut_off_while_a_guest_follows_its_record_does_the_rest_later(
    nics: Nics, network: str, act: str
) -> None:
    cloud, host = nics.cloud, nics.cloud.hosts["h1"]
    (first,), port = nics.listed(), nics.attached(net_id=network)
    cloud.faults.deadly = f"refresh_interfaces.{act}.after"
    if act == "set_link":
        down = {"port": {"admin_state_up": False}}
        assert cloud.ask("PUT", f"{PORTS}/{port}", down)[0] == 200
    elif act in {"plug_vifs", "attach_interface"}:
        host.driver.detach_interface(nics.id, tap_name(port), 1.0, Cancel())
        host.network.unplug(port)
        interfaces.look_again(cloud.bus, "h1", nics.id)
    else:
        assert cloud.ask("DELETE", f"{PORTS}/{port}")[0] == 204
    assert cloud.faults.died.wait(PATIENCE), "nobody came there"
    host.goes_silent()
    host.start()
    left = (first, port) if nics.port(port) else (first,)
    until(lambda: nics.of_guest() == {tap_name(one) for one in left}, PATIENCE, "the guest")
    nics.are(*left)
    links = host.driver.interfaces(nics.id)
    assert links[tap_name(first)]
    assert links.get(tap_name(port), True) == (act != "set_link")


def test_a_guest_that_cannot_follow_its_record_keeps_no_other_from_it(cloud: Cloud, network: str) -> None:
    host = cloud.hosts["h1"]
    servers = [Nics(cloud, cloud.active(network)) for _ in range(2)]
    for one in servers:
        (tap,) = one.of_guest()
        host.driver.detach_interface(one.id, tap, 1.0, Cancel())
    host.driver.failures["attach_interface"] = [BuildFailed("no")]
    host.agent._to_refresh |= {one.id for one in servers}
    host.agent._refresh_all()
    assert [len(one.of_guest()) for one in servers] in ([0, 1], [1, 0])


def test_word_that_comes_during_a_look_is_looked_at_after_it(
    nics: Nics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The look has read the record by then, and does not know what changed since."""
    agent = nics.cloud.where(nics.id).agent
    looks: list[str] = []

    def refresh(_parts: Any, server_id: str, _learn: Any) -> None:
        looks.append(server_id)
        if len(looks) == 1:
            other = threading.Thread(target=agent.refresh_interfaces, args=(ServerRef(server_id=server_id),))
            other.start()
            other.join()
            assert len(looks) == 1, "two at once"

    monkeypatch.setattr("kilonova.compute.interfaces.refresh_interfaces", refresh)
    agent.refresh_interfaces(ServerRef(server_id=nics.id))
    assert looks == [nics.id] * 2


@pytest.mark.parametrize("error", [BuildFailed("no"), Unavailable("not now")])
def test_a_nic_that_came_is_said_to_be_there_whatever_else_its_host_cannot_do(
    nics: Nics, network: str, monkeypatch: pytest.MonkeyPatch, error: KilonovaError
) -> None:
    """What it was told meanwhile waits until the guest has its NIC, and is not what was asked for."""
    agent, (first,) = nics.cloud.where(nics.id).agent, nics.listed()
    looks: list[str] = []

    def refuses(_parts: Any, server_id: str, _learn: Any) -> None:
        looks.append(server_id)
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("kilonova.compute.interfaces.refresh_interfaces", refuses)
        agent._to_refresh.add(nics.id)
        port = nics.attached(net_id=network)
    assert looks
    nics.are(first, port)
