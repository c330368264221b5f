"""One connection to libvirt that comes back by itself.

libvirt needs an event loop in the process; it gets a thread of its own. When the connection is lost, every
call raises Unavailable at once and a keeper thread opens it again. For ``qemu:///embed`` there is no daemon
that could go away, but the code path is the same.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import libvirt

from kilonova import log
from kilonova.domain.errors import Unavailable
from kilonova.virt.libvirt import needs

_log = log.get("virt.libvirt")
_KEEPALIVE_INTERVAL, _KEEPALIVE_COUNT = 5, 3
_RETRY_SECONDS = 0.5
_LOOP_ENDS_WITHIN = 5.0
_NO_CHANGE_OF_POWER = (libvirt.VIR_DOMAIN_EVENT_DEFINED, libvirt.VIR_DOMAIN_EVENT_UNDEFINED)
_OF_DEVICES = (
    libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED,
    libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVAL_FAILED,
    libvirt.VIR_DOMAIN_EVENT_ID_JOB_COMPLETED,
)
_loop_lock = threading.Lock()
_loop: threading.Thread | None = None
_exiting = threading.Event()


def ensure_event_loop() -> None:
    """libvirt's event loop runs, in one thread for the whole process. Call before the first connection."""
    global _loop  # noqa: PLW0603 - libvirt's loop is one for the process
    with _loop_lock:
        if _loop is not None:
            return
        # libvirt prints every error to stderr unless it is told not to; we raise them instead.
        libvirt.registerErrorHandler(lambda _context, _error: None, None)
        libvirt.virEventRegisterDefaultImpl()
        _loop = threading.Thread(target=_run_loop, name="libvirt-events", daemon=True)
        _loop.start()
        atexit.register(_end_loop, _loop)


def _run_loop() -> None:
    while not _exiting.is_set():
        with suppress(libvirt.libvirtError):
            libvirt.virEventRunDefaultImpl()


def _end_loop(loop: threading.Thread) -> None:
    """An interpreter that ends under a callback of libvirt's takes the process down: end the loop first."""
    _exiting.set()
    with suppress(libvirt.libvirtError):
        libvirt.virEventAddTimeout(0, lambda _timer, _opaque: None, None)  # wakes the loop
    loop.join(_LOOP_ENDS_WITHIN)


class Connection:
    """``on_up`` runs after each reconnection, ``on_down`` after each loss, ``on_lifecycle`` with a domain's
    name when its power may have changed, ``on_device`` when it let go of a device or refused to, or a job of
    its has ended; these two run in libvirt's thread and must not call libvirt."""

    def __init__(
        self,
        uri: str,
        on_up: Callable[[], None],
        on_down: Callable[[], None],
        on_lifecycle: Callable[[str], None],
        on_device: Callable[[str], None],
    ) -> None:
        self.uri = uri
        self._on_up = on_up
        self._on_down = on_down
        self._on_lifecycle = on_lifecycle
        self._on_device = on_device
        self._conn: Any = None
        self._last_error = "not connected yet"
        self._lost = threading.Event()
        self._closing = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="libvirt-keeper", daemon=True)

    def open(self) -> None:
        """Connect. If the daemon is away, say so in the log and go on trying: calls raise Unavailable.

        Without a daemon there is nobody to wait for: then it raises Unavailable itself.
        """
        ensure_event_loop()
        if not self._connect():
            if self.is_embedded:
                lacks = "".join(f"; {line}" for line in needs.missing())
                raise Unavailable(f"libvirt ({self.uri}) cannot start: {self._last_error}{lacks}")
            _log.warning("libvirt_away", uri=self.uri, reason=self._last_error)
            self._lost.set()
        self._keeper.start()

    def close(self) -> None:
        self._closing.set()
        self._lost.set()
        if self._keeper.is_alive():
            self._keeper.join()
        conn, self._conn = self._conn, None
        if conn is not None:
            with suppress(libvirt.libvirtError):
                conn.close()

    def get(self) -> Any:
        """The open virConnect. Unavailable if libvirt is away."""
        conn = self._conn
        if conn is None:
            raise Unavailable(f"libvirt ({self.uri}) is away: {self._last_error}")
        return conn

    @property
    def is_embedded(self) -> bool:
        return self.uri.startswith("qemu:///embed")

    def _connect(self) -> bool:
        try:
            conn = libvirt.open(self.uri)
            conn.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._lifecycle, None)
            conn.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2, self._block_job, None)
            for event in _OF_DEVICES:
                conn.domainEventRegisterAny(None, event, self._device, None)
            if not self.is_embedded:
                conn.registerCloseCallback(self._closed, None)
                conn.setKeepAlive(_KEEPALIVE_INTERVAL, _KEEPALIVE_COUNT)
        except libvirt.libvirtError as error:
            self._last_error = error.get_error_message() or str(error)
            return False
        self._conn = conn
        return True

    def _lifecycle(self, _conn: Any, domain: Any, event: int, _detail: int, _opaque: None) -> None:
        if event not in _NO_CHANGE_OF_POWER:
            self._on_lifecycle(domain.name())

    def _device(self, _conn: Any, domain: Any, _what: Any, _opaque: None) -> None:
        self._on_device(domain.name())

    def _block_job(
        self, _conn: Any, domain: Any, _disk: str, _kind: int, _status: int, _opaque: None
    ) -> None:
        self._on_device(domain.name())

    def _closed(self, _conn: Any, _reason: int, _opaque: None) -> None:
        self._last_error = "the connection was closed"
        self._conn = None
        self._lost.set()
        self._on_down()

    def _keep(self) -> None:
        """Thread: wait for a loss, then try to connect until it works."""
        while True:
            self._lost.wait()
            if self._closing.is_set():
                return
            if self._conn is None and not self._connect():
                # A daemon's return gives no event: the only way to see it is to knock.
                self._closing.wait(_RETRY_SECONDS)
                continue
            self._lost.clear()
            _log.info("libvirt_back", uri=self.uri)
            self._on_up()
