"""The tests' own look at who is in which network."""

from __future__ import annotations

import os
import threading

import pytest
from tests.host_oracle import own_host
from tests.namespaces import at_home, strays, strays_of
from tests.running import until

pytestmark = pytest.mark.system


def network() -> str:
    return os.readlink("/proc/thread-self/ns/net")


def test_what_outlives_a_module_is_made_at_home() -> None:
    home = network()
    with own_host():
        assert network() != home
        assert at_home(network) == home
        assert network() != home
    assert network() == home


def test_a_thread_that_stays_elsewhere_is_found() -> None:
    leave = threading.Event()
    with own_host():
        thread = threading.Thread(target=leave.wait, name="stays")
        thread.start()
    try:
        assert len(strays()) == len(strays_of(os.getpid())) == 1
        assert "another net" in strays()[0]
    finally:
        leave.set()
        thread.join()
    until(lambda: strays() == [], 60, "the kernel to have ended the thread, a little after Python did")
