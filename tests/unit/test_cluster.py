"""`kilonova cluster`: the files that it writes, and the certificates; systemd and servers are not asked."""

from __future__ import annotations

import ssl
import stat
from importlib import import_module
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kilonova.cli import main
from kilonova.cli.cluster import certificates, machine
from kilonova.config import load

TICKET = """
host = "node1"
bus = "amqps://compute.node1:secret@127.0.0.1:1/kilonova"
auth_url = "http://192.0.2.1:8774/identity"
username = "compute.node1"
password = "quo\\"ted"
ca = "certificate"
"""


@pytest.fixture(autouse=True)
def as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that is written is below a folder of the test's."""
    monkeypatch.setattr(machine, "must_be_root", lambda: None)


def cluster(*words: str) -> Result:
    return CliRunner().invoke(main, ["cluster", *words])


def init(root: Path, address: str = "192.0.2.1", *more: str) -> Path:
    done = cluster("init", "--address", address, "--root", str(root), *more)
    assert done.exit_code == 0, done.output
    return root / "etc"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_init_writes_what_the_units_read(tmp_path: Path) -> None:
    etc = init(tmp_path)
    config = load(etc / "kilonova/control.toml")
    assert config.bus.url.startswith("amqp://kilonova:")
    assert config.database.connection == "postgresql+psycopg://kilonova@/kilonova?host=/run/postgresql"
    assert mode(etc / "kilonova/control.toml") == 0o640
    assert mode(etc / "kilonova/ca.key") == 0o600
    assert mode(etc / "rabbitmq/kilonova/key.pem") == 0o640
    units = {path.name for path in (etc / "systemd/system").iterdir()}
    assert {"kilonova-api.socket", "kilonova-api.service", "kilonova.target"} <= units
    assert "kilonova-compute.service" not in units
    drop_in = (etc / "systemd/system/kilonova-api.socket.d/address.conf").read_text()
    assert "ListenStream=\nListenStream=192.0.2.1:8774" in drop_in
    assert "listeners.ssl.1 = 192.0.2.1:5671" in (etc / "rabbitmq/conf.d/kilonova.conf").read_text()


def test_init_again_keeps_what_hosts_and_services_know(tmp_path: Path) -> None:
    etc = init(tmp_path)
    kept = [etc / "kilonova" / name for name in ("control.toml", "ca.pem", "ca.key")]
    before = [path.read_text() for path in kept]
    init(tmp_path, "2001:db8::1", "--database", "postgresql+psycopg://elsewhere/kilonova")
    assert [path.read_text() for path in kept] == before
    drop_in = (etc / "systemd/system/kilonova-api.socket.d/address.conf").read_text()
    assert "ListenStream=[2001:db8::1]:8774" in drop_in


def test_a_database_elsewhere(tmp_path: Path) -> None:
    url = "postgresql+psycopg://u@db/k"
    etc = init(tmp_path, "192.0.2.1", "--database", url)
    assert load(etc / "kilonova/control.toml").database.connection == url


def test_a_database_with_a_password_is_not_for_a_command_line(tmp_path: Path) -> None:
    """Everybody on the machine reads those, and shells keep them."""
    address = ("--address", "192.0.2.1", "--root", str(tmp_path / "root"))
    done = cluster("init", *address, "--database", "postgresql+psycopg://u:theirs@db/k")
    assert done.exit_code == 2
    assert "--database-file" in done.output
    assert "theirs" not in done.output
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize("from_stdin", [False, True])
def test_a_database_with_a_password_comes_from_a_file(from_stdin: bool, tmp_path: Path) -> None:
    url = 'postgresql+psycopg://u:a"b\\c@db/k'
    (tmp_path / "url").write_text(url + "\n")
    words = ["cluster", "init", "--address", "192.0.2.1", "--root", str(tmp_path / "root")]
    words += ["--database-file", "-" if from_stdin else str(tmp_path / "url")]
    done = CliRunner().invoke(main, words, input=url + "\n" if from_stdin else None)
    assert done.exit_code == 0, done.output
    assert load(tmp_path / "root/etc/kilonova/control.toml").database.connection == url


@pytest.mark.parametrize(
    "words", [["--database-file", "-"], ["--database-file", "-", "--database", "postgresql://db/k"]]
)
def test_a_database_is_named_once(words: list[str], tmp_path: Path) -> None:
    done = cluster("init", "--address", "192.0.2.1", "--root", str(tmp_path / "root"), *words)
    assert done.exit_code == 2
    assert not (tmp_path / "root").exists()


def test_init_wants_an_address(tmp_path: Path) -> None:
    done = cluster("init", "--address", "control.example", "--root", str(tmp_path))
    assert done.exit_code == 2
    assert "is no IP address" in done.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_hosts_know_the_broker_by_its_certificate(address: str, tmp_path: Path) -> None:
    ca, ca_key = certificates.authority()
    certificate, key = certificates.server(address, ca, ca_key)
    (tmp_path / "both").write_text(certificate + key)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(tmp_path / "both")
    assert shakes_hands(serving, ssl.create_default_context(cadata=ca), address)
    with pytest.raises(ssl.SSLCertVerificationError):
        shakes_hands(serving, ssl.create_default_context(cadata=ca), "192.0.2.9")
    other, _ = certificates.authority()
    with pytest.raises(ssl.SSLCertVerificationError):
        shakes_hands(serving, ssl.create_default_context(cadata=other), address)


def shakes_hands(serving: ssl.SSLContext, asking: ssl.SSLContext, name: str) -> bool:
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = serving.wrap_bio(there, back, server_side=True)
    client = asking.wrap_bio(back, there, server_hostname=name)
    for _ in range(4):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return client.version() is not None


def test_join_writes_the_hosts_own_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module("kilonova.cli.cluster.join"), "check_broker", lambda _ticket: None)
    (tmp_path / "ticket").write_text(TICKET)
    done = cluster("join", str(tmp_path / "ticket"), "--root", str(tmp_path / "root"))
    assert done.exit_code == 0, done.output
    etc = tmp_path / "root/etc"
    config = load(etc / "kilonova/compute.toml")
    assert (config.host, config.bus.ssl_ca_file) == ("node1", "/etc/kilonova/ca.pem")
    assert (config.service_user.username, config.service_user.password) == ("compute.node1", 'quo"ted')
    assert config.database.connection == ""
    assert mode(etc / "kilonova/compute.toml") == 0o600
    assert (etc / "kilonova/ca.pem").read_text() == "certificate"
    units = {path.name for path in (etc / "systemd/system").iterdir()}
    assert units == {"kilonova-compute.service", "kilonova.target"}


def test_join_says_that_the_broker_cannot_be_reached(tmp_path: Path) -> None:
    ca, _ = certificates.authority()
    (tmp_path / "ticket").write_text(TICKET.replace('"certificate"', f'"""\n{ca}"""'))
    done = cluster("join", str(tmp_path / "ticket"), "--root", str(tmp_path / "root"))
    assert done.exit_code == 1
    assert "cannot reach the broker compute.node1@127.0.0.1:1/kilonova" in done.output
    assert "secret" not in done.output
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize("text", ["", "host = 3", "no toml", TICKET + 'more = "x"'])
def test_join_wants_what_add_host_wrote(text: str, tmp_path: Path) -> None:
    (tmp_path / "ticket").write_text(text)
    done = cluster("join", str(tmp_path / "ticket"), "--root", str(tmp_path / "root"))
    assert done.exit_code == 1
    assert "was not written by kilonova cluster add-host" in done.output
    assert not (tmp_path / "root").exists()


def test_a_program_that_is_missing_is_named_with_what_brings_it() -> None:
    with pytest.raises(machine.click.ClickException, match=r"no rabbitmqctl-x .*install rabbitmq-server"):
        machine.run("rabbitmqctl-x", needs="rabbitmq-server")
    with pytest.raises(machine.click.ClickException, match="false failed: status 1"):
        machine.run("false", needs="coreutils")


@pytest.mark.parametrize(
    "bus",
    [
        "",
        '[bus]\nurl = ""',
        '[bus]\nurl = "amqp://kilonova@127.0.0.1:5672/kilonova"',
        '[bus]\nurl = "amqp://other:theirs@127.0.0.1:5672/kilonova"',
        '[bus]\nurl = "amqp://kilonova:theirs@192.0.2.7:5672/kilonova"',
        '[bus]\nurl = "amqp://kilonova:theirs@127.0.0.1:5672/other"',
        '[bus]\nurl = "amqp://kilonova:theirs@127.0.0.1:x/kilonova"',
        "[bus",
    ],
)
def test_init_leaves_a_configuration_alone_that_it_has_not_written(bus: str, tmp_path: Path) -> None:
    """It would set the broker's user to a password that was meant for another broker, or to none."""
    config = tmp_path / "etc/kilonova/control.toml"
    config.parent.mkdir(parents=True)
    config.write_text(bus)
    done = cluster("init", "--address", "192.0.2.1", "--root", str(tmp_path))
    assert done.exit_code == 1
    assert "control.toml" in done.output
    assert "theirs" not in done.output
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [config]
    assert config.read_text() == bus


@pytest.fixture
def joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The configuration of a host that was joined before, and that its operator has changed since."""
    monkeypatch.setattr(import_module("kilonova.cli.cluster.join"), "check_broker", lambda _ticket: None)
    (tmp_path / "ticket").write_text(TICKET)
    assert cluster("join", str(tmp_path / "ticket"), "--root", str(tmp_path / "root")).exit_code == 0
    config = tmp_path / "root/etc/kilonova/compute.toml"
    text = config.read_text().replace("http://192.0.2.1:8774", "https://cloud.example.org")
    config.write_text(text + "\n[compute]\nreport_interval = 7.0  # ours\n")
    (tmp_path / "ticket").write_text(TICKET.replace("secret", "fresh").replace("quo", "newer"))
    return config


def test_join_again_changes_the_credentials_alone(joined: Path, tmp_path: Path) -> None:
    before = joined.read_text()
    done = cluster("join", str(tmp_path / "ticket"), "--root", str(tmp_path / "root"))
    assert done.exit_code == 0, done.output
    assert joined.read_text() == before.replace("secret", "fresh").replace("quo", "newer")
    assert mode(joined) == 0o600


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('host = "node1"', 'host = "node2"', "is of the host node2"),
        ("[bus]", "[bus", "cannot be read"),
        ("[service_user]", "[other]", "service_user"),
        ("[bus]\nurl =", "[bus]\n'url' =", "bus"),
        ("[bus]\nurl = ", "bus = 3\n[bush]\nurl = ", "bus"),
        ('password = "', 'password = """\n', "cannot"),
        ('password = "quo\\"ted"', 'password = """\nours\n"""', "service_user"),
    ],
)
def test_join_leaves_a_configuration_alone_that_it_does_not_understand(
    old: str, new: str, reason: str, joined: Path, tmp_path: Path
) -> None:
    before = joined.read_text().replace(old, new)
    joined.write_text(before)
    done = cluster("join", str(tmp_path / "ticket"), "--root", str(tmp_path / "root"))
    assert done.exit_code == 1
    assert reason in done.output
    assert "fresh" not in done.output
    assert joined.read_text() == before
