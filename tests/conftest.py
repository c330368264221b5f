"""Fixtures that more than one kind of test needs.

A test that asks for a database gets SQLite; those of ON_BOTH run once more on PostgreSQL. With
KILONOVA_TEST_DATABASE=postgresql in the environment all of them run on PostgreSQL.
"""

from __future__ import annotations

import atexit
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from tests.ceph import Ceph
from tests.ceph import installed as ceph_installed
from tests.databases import Catalog, Databases, Files, Fill, no_rows
from tests.namespaces import at_home, strays
from tests.postgresql import PostgreSQL
from tests.rabbit import Rabbit, installed
from tests.running import until
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from kilonova.store.database import Database

# The same examples in every run, however long each takes: a change is blamed for what it did itself.
# Others are looked for by: pytest --hypothesis-profile search
settings.register_profile("search", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("steady", settings.get_profile("search"), derandomize=True)
settings.load_profile("steady")

_STATUS = pytest.StashKey[int]()
DEFAULT_DATABASE = os.environ.get("KILONOVA_TEST_DATABASE", "sqlite")
ON_BOTH = {
    "test_auto_allocated_topologies",
    "test_bootstrap",
    "test_database",
    "test_floating_ips",
    "test_gathered_reports",
    "test_idempotency",
    "test_identity_races",
    "test_identity_tokens",
    "test_keypairs",
    "test_migrations",
    "test_network_lists",
    "test_network_races",
    "test_network_service",
    "test_oracle",
    "test_ports",
    "test_purge",
    "test_quotas",
    "test_rbac",
    "test_routers",
    "test_routers_of_hosts",
    "test_security_groups",
    "test_server_actions",
    "test_server_races",
    "test_servers_create",
    "test_servers_list",
    "test_service_types",
    "test_statement",
    "test_subnetpools",
}
"""Modules whose subject is not the same on two databases: conditions, orders, patterns, races."""


class ModuleByModule(LoadScopeScheduling):
    """Each module whole on one worker; those that need Ceph all on one, so that there is one Ceph.

    Tests with real guests are each on a host of their own (a network namespace): they may run beside others.
    xdist's own groups (``--dist loadgroup``) rename tests, which pytest 9 does not take.
    """

    def _split_scope(self, nodeid: str) -> str:
        module = nodeid.partition("::")[0]
        return "Ceph" if _needs_ceph(module) else module


@cache
def _needs_ceph(module: str) -> bool:
    return bool(re.search(r"\bceph: Ceph\b|getfixturevalue\(.ceph.\)", Path(module).read_text()))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long ones come first, for the short ones fill the gaps. Who is not root runs all but those that
    change the machine."""
    items.sort(key=_is_short)
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("system"):
            item.add_marker(pytest.mark.skip(reason="needs root"))


def _is_short(item: pytest.Item) -> bool:
    return not (item.get_closest_marker("system") or item.get_closest_marker("crash"))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """With several workers (tools/test)."""
    return ModuleByModule(config, log)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    session.config.stash[_STATUS] = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """End here, with what was found: where an interpreter of this size takes down its modules, msgspec may
    crash (https://github.com/msgspec/msgspec/issues/717), and a run that passed would have failed."""
    status = config.stash.get(_STATUS, None)
    if status is None or hasattr(config, "workerinput"):
        return
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


@pytest.fixture(scope="module", autouse=True)
def nobody_strays() -> Iterator[None]:
    """Tests put their thread into networks of their own: after each module every thread is back.

    A module is not blamed for another's: what one that failed left is no fault of those after it."""
    before = set(strays())
    yield
    with suppress(AssertionError):
        until(lambda: set(strays()) <= before, 60, "every thread to be where it began")
    assert set(strays()) - before == set()


@pytest.fixture(scope="session")
def embed_folder() -> Iterator[Path]:
    """The one folder of a libvirt driver in this process: ``qemu:///embed`` has one root a process.

    Its path is short (UNIX sockets lie below it) and open to pass (QEMU runs as its own user).
    """
    from kilonova.virt.libvirt.reaper import adopt_guests

    adopt_guests()
    folder = Path(tempfile.mkdtemp(prefix="kilonova-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def rabbit() -> Iterator[Rabbit]:
    """A RabbitMQ that runs. Who stops it starts it again."""
    if not installed():
        pytest.skip("needs RabbitMQ: tools/install-packages test")
    folder = Path(tempfile.mkdtemp(prefix="kilonova-rabbit-"))
    broker = Rabbit(folder)
    try:
        yield at_home(broker.start)
    finally:
        broker.stop()
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def ceph() -> Iterator[Ceph]:
    """A Ceph that works; started for the first test that asks. Who stops its OSD starts it again."""
    if not ceph_installed():
        pytest.skip("needs Ceph: tools/install-packages test")
    cluster = at_home(Ceph)
    at_home(cluster.start)
    yield cluster
    cluster.remove()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The tests of ON_BOTH twice."""
    if "database_kind" not in metafunc.fixturenames or DEFAULT_DATABASE != "sqlite":
        return
    if metafunc.module.__name__.rpartition(".")[2] in ON_BOTH:
        metafunc.parametrize("database_kind", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
def database_kind(request: pytest.FixtureRequest) -> str:
    """sqlite or postgresql."""
    return str(getattr(request, "param", DEFAULT_DATABASE))


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """The server that all tests share; who restarts one starts its own."""
    server = PostgreSQL()
    try:
        yield server.start()
    finally:
        server.remove()


@pytest.fixture(scope="session")
def sqlite_databases(tmp_path_factory: pytest.TempPathFactory) -> Databases:
    return Databases(Files(tmp_path_factory.mktemp("sqlite")))


@pytest.fixture(scope="session")
def postgresql_databases(postgresql: PostgreSQL) -> Iterator[Databases]:
    catalog = Catalog(postgresql)
    yield Databases(catalog)
    catalog.close()


@pytest.fixture
def databases(database_kind: str, request: pytest.FixtureRequest) -> Databases:
    """Of the kind that this test runs on."""
    found: Databases = request.getfixturevalue(f"{database_kind}_databases")
    return found


@pytest.fixture
def new_url(databases: Databases) -> Iterator[Callable[..., str]]:
    """Make a database; dropped when the test ends. ``fill`` None: without tables."""
    made: list[str] = []

    def make(fill: Fill | None = no_rows) -> str:
        made.append(databases.empty() if fill is None else databases.filled(fill))
        return made[-1]

    yield make
    for url in made:
        databases.drop(url)


@pytest.fixture
def up_database(database_kind: str, request: pytest.FixtureRequest) -> str:
    """For a Kilonova in processes of its own: a new database's URL; none: SQLite in its state folder."""
    return request.getfixturevalue("new_url")(None) if database_kind == "postgresql" else ""


@pytest.fixture
def new_database(new_url: Callable[..., str]) -> Iterator[Callable[..., Database]]:
    """Make a database and open it."""
    opened: list[Database] = []

    def make(fill: Fill | None = no_rows) -> Database:
        opened.append(Database(new_url(fill)))
        return opened[-1]

    yield make
    for db in opened:
        db.close()
