"""Images downloaded from the image API by a host, and uploaded to it, as the user of its service.

For a compute that is no neighbour of the image store. It logs in when it must, and again when its token has
expired or was revoked.
"""

from __future__ import annotations

import http.client
import io
import json
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, cast

from kilonova import log
from kilonova.config import ServiceUser
from kilonova.domain.errors import BadRequest, Forbidden, NotFound, Unavailable
from kilonova.domain.servers import ImageLocation
from kilonova.image import locations

_SILENCE = 60.0
"""Seconds that the image service may pause between two pieces of an answer."""
_NOT_TAKEN = (
    http.HTTPStatus.BAD_REQUEST,
    http.HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    http.HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
)
"""Of an upload: sent again it would be refused again."""
_DROPPED = 1 << 20
_MOST_SAID = 1 << 14
_log = log.get("image")


class HttpImages:
    """ImageSource and ImageSink, safe in many threads. BadRequest if ``user.auth_url`` is no address."""

    def __init__(self, user: ServiceUser, region: str) -> None:
        if not user.auth_url.startswith(("http://", "https://")):
            raise BadRequest("[service_user] auth_url must be the http address of the identity service")
        self._user = user
        self._region = region
        self._lock = threading.Lock()
        self._session: tuple[str, str] | None = None

    def open(self, image_id: str) -> BinaryIO:
        """The image's data from its first byte, as it comes; a seek() before reading asks for what is there.

        NotFound; Forbidden if the service's user may not have it; Unavailable if a service does not answer.
        """
        return cast(BinaryIO, _Download(self._get, image_id))

    def _get(self, image_id: str, start: int) -> http.client.HTTPResponse:
        """The answer, whose body begins with the byte ``start``."""
        headers = {"Range": f"bytes={start}-"} if start else {}
        answer = self._sent(f"/v2/images/{image_id}/file", f"image {image_id}", headers=headers)
        if answer.status == http.HTTPStatus.NO_CONTENT:
            answer.close()
            raise NotFound(f"image {image_id} has no data")
        return _from(answer, start)

    def has_data(self, image_id: str) -> bool:
        with self._sent(f"/v2/images/{image_id}", f"image {image_id}") as answer:
            try:
                return json.load(answer)["status"] in ("active", "deactivated")
            except (ValueError, KeyError, TypeError) as error:
                raise Unavailable(f"image {image_id}: the image service does not answer like one") from error

    def upload(self, image_id: str, data: BinaryIO) -> None:
        begin = data.tell()
        size = data.seek(0, os.SEEK_END) - begin
        data.seek(begin)
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        what = f"image {image_id}"
        self._sent(f"/v2/images/{image_id}/file", what, method="PUT", headers=headers, data=data).close()

    def upload_from(self, image_id: str, disk: ImageLocation) -> None:
        body = io.BytesIO(json.dumps({"url": locations.to_url(disk)}).encode())
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body.getvalue()))}
        what = f"image {image_id}"
        self._sent(
            f"/v2/images/{image_id}/locations", what, method="POST", headers=headers, data=body
        ).close()

    def _sent(
        self,
        path: str,
        what: str,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        data: BinaryIO | None = None,
    ) -> http.client.HTTPResponse:
        """The answer; after a new login where the token is not good any more."""
        begin = 0 if data is None else data.tell()
        for last in (False, True):
            token, endpoint = self._logged_in()
            if data is not None:
                data.seek(begin)
            request = urllib.request.Request(  # noqa: S310 - the scheme was checked
                f"{endpoint}{path}", data, {**(headers or {}), "X-Auth-Token": token}, method=method
            )
            try:
                return _send(request, what)
            except _Refused as refusal:
                if last:
                    raise Unavailable(f"{what}: {refusal}") from refusal
                self._forget(token)
        raise AssertionError("unreachable")

    def _logged_in(self) -> tuple[str, str]:
        """A token and the address of the image service."""
        with self._lock:
            if self._session is None:
                self._session = self._log_in()
            return self._session

    def _forget(self, token: str) -> None:
        with self._lock:
            if self._session is not None and self._session[0] == token:
                self._session = None

    def _log_in(self) -> tuple[str, str]:
        user = self._user
        body = {
            "auth": {
                "identity": {
                    "methods": ["password"],
                    "password": {
                        "user": {
                            "name": user.username,
                            "password": user.password,
                            "domain": {"name": user.user_domain_name},
                        }
                    },
                },
                "scope": {
                    "project": {"name": user.project_name, "domain": {"name": user.project_domain_name}}
                },
            }
        }
        root = user.auth_url.rstrip("/").removesuffix("/v3")
        request = urllib.request.Request(  # noqa: S310 - the scheme was checked
            f"{root}/v3/auth/tokens", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with _send(request, "login") as answer:
                token = answer.headers["X-Subject-Token"]
                catalog = json.load(answer)["token"]["catalog"]
        except _Refused as refusal:
            raise Unavailable(f"{user.auth_url} refuses [service_user] {user.username}") from refusal
        except (ValueError, KeyError, TypeError) as error:
            raise Unavailable(f"{user.auth_url} does not answer like an identity service") from error
        _log.info("logged_in", user=user.username)
        return token, _endpoint(catalog, self._region)


class _Download:
    """An answer to be read from its beginning, or from where a seek() led."""

    def __init__(self, get: Callable[[str, int], http.client.HTTPResponse], image_id: str) -> None:
        self._get = get
        self._image_id = image_id
        self._answer = get(image_id, 0)

    def read(self, size: int = -1) -> bytes:
        """ConnectionError or TimeoutError: the transfer broke."""
        return _read(self._answer, None if size < 0 else size)

    def seek(self, offset: int) -> int:
        self._answer.close()
        self._answer = self._get(self._image_id, offset)
        return offset

    def close(self) -> None:
        self._answer.close()

    def __enter__(self) -> _Download:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def _read(answer: http.client.HTTPResponse, size: int | None) -> bytes:
    try:
        return answer.read(size)
    except (ConnectionError, TimeoutError):
        raise
    except (OSError, http.client.HTTPException) as error:  # of TLS, or of HTTP itself
        raise ConnectionError(f"the transfer broke: {error!r}") from error


def _from(answer: http.client.HTTPResponse, start: int) -> http.client.HTTPResponse:
    """A service that knows no ranges answers with everything: what was not asked for is read and dropped."""
    if answer.status == http.HTTPStatus.PARTIAL_CONTENT:
        return answer
    while start > 0 and (dropped := len(_read(answer, min(start, _DROPPED)))):
        start -= dropped
    return answer


class _Refused(Exception):
    """401: the token or the password is not good (any more)."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """The token is for whom the catalog names, and the password for the identity service."""

    def redirect_request(self, *_: object) -> None:
        return None


_opener = urllib.request.build_opener(_NoRedirects)


def _send(request: urllib.request.Request, what: str) -> http.client.HTTPResponse:
    try:
        return cast(
            http.client.HTTPResponse,
            _opener.open(request, timeout=_SILENCE),
        )
    except urllib.error.HTTPError as error:
        with error:
            raise _meaning(error, what) from error
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable(f"{what}: {request.host} does not answer: {error}") from error


def _meaning(error: urllib.error.HTTPError, what: str) -> Exception:
    if error.code == http.HTTPStatus.UNAUTHORIZED:
        return _Refused(error.reason)
    if error.code == http.HTTPStatus.NOT_FOUND:
        return NotFound(f"{what}: the image service has none")
    if error.code in _NOT_TAKEN:
        return BadRequest(f"{what}: {_said(error)}")
    if error.code == http.HTTPStatus.FORBIDDEN:
        return Forbidden(f"{what}: the [service_user] may not have it")
    return Unavailable(f"{what}: {error.code} {error.reason}")


def _said(error: urllib.error.HTTPError) -> str:
    """Why, in the service's own words if it gives any."""
    try:
        said = json.loads(error.read(_MOST_SAID))["message"]
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        said = ""
    return said if isinstance(said, str) and said else f"{error.code} {error.reason}"


def _endpoint(catalog: Any, region: str) -> str:
    """The image service for services, in our region; its address without a version."""
    found = {
        endpoint["interface"]: endpoint["url"]
        for service in catalog
        if service["type"] == "image"
        for endpoint in service["endpoints"]
        if endpoint.get("region") == region
    }
    for interface in ("internal", "public"):
        if interface in found:
            return str(found[interface]).rstrip("/").removesuffix("/v2")
    raise Unavailable(f"the catalog has no image service in region {region}")
