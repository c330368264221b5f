"""The one tree of errors.

Any layer raises them, the bus carries them by name, and the HTTP edge turns them into each
service's fault format. ``status`` is the HTTP status that the OpenStack API gives this kind of error.

    KilonovaError
    ├── BadRequest 400              the caller's input is wrong
    ├── Unauthorized 401            no token, or one that is not valid any more
    ├── Forbidden 403               known caller, not allowed
    │   └── QuotaExceeded 403
    ├── NotFound 404
    ├── NotAcceptable 406           a microversion that is not served
    ├── Conflict 409                the state of the thing forbids it now
    │   └── StaleEpoch              the operation moved on to another owner: stop, remove what you made
    ├── PreconditionFailed 412      it is no more as the caller has read it
    ├── TooLarge 413
    ├── UnsupportedMedia 415
    ├── Unprocessable 422           understood, and at odds with what was said before
    ├── BuildFailed 500             a step of a build failed; another host may do better
    │   ├── BuildAborted            … no other host can do better: bad image, no addresses left
    │   └── NoValidHost             no host passes the filters
    ├── VolumeFailed 500            a volume's store refused
    ├── StillUnderWay 504           it was accepted and goes on; nobody waits for its end any longer
    └── Unavailable 503             a part we depend on does not answer now; try again
        ├── Timeout
        └── RolledBack          nothing of it was done, for what somebody else did: doing it again is safe
"""

from __future__ import annotations

from typing import Any, ClassVar


class KilonovaError(Exception):
    """Base of all. ``details`` is JSON-able data for the reader that may see more (the admin)."""

    status: ClassVar[int] = 500

    def __init__(self, message: str, details: Any = None) -> None:
        super().__init__(message)
        self.message = message
        self.details = details


class BadRequest(KilonovaError):
    status = 400


class Unauthorized(KilonovaError):
    status = 401


class Forbidden(KilonovaError):
    status = 403


class QuotaExceeded(Forbidden):
    pass


class NotFound(KilonovaError):
    status = 404


class NotAcceptable(KilonovaError):
    status = 406


class Conflict(KilonovaError):
    status = 409


class StaleEpoch(Conflict):
    pass


class PreconditionFailed(KilonovaError):
    status = 412


class TooLarge(KilonovaError):
    status = 413


class UnsupportedMedia(KilonovaError):
    status = 415


class Unprocessable(KilonovaError):
    status = 422


class BuildFailed(KilonovaError):
    pass


class BuildAborted(BuildFailed):
    pass


class NoValidHost(BuildFailed):
    pass


class VolumeFailed(KilonovaError):
    pass


class StillUnderWay(KilonovaError):
    status = 504


class Unavailable(KilonovaError):
    status = 503


class Timeout(Unavailable):
    pass


class RolledBack(Unavailable):
    pass


def by_name(name: str) -> type[KilonovaError]:
    """The class of that name, for an error that came over the bus; KilonovaError if unknown."""
    return _tree(KilonovaError).get(name, KilonovaError)


def _tree(root: type[KilonovaError]) -> dict[str, type[KilonovaError]]:
    found = {root.__name__: root}
    for child in root.__subclasses__():
        found |= _tree(child)
    return found
