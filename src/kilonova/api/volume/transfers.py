"""Transfers: /os-volume-transfer and, since 3.55, /volume-transfers, which moves snapshots too."""

from __future__ import annotations

from typing import Any

import msgspec
import sqlalchemy as sa

from kilonova.api.http import Reply, Request, Route
from kilonova.api.volume import inputs, policy, queries
from kilonova.api.volume.state import VolumeAPI
from kilonova.domain.clock import iso8601_micro
from kilonova.store import block_lists
from kilonova.store import volume_transfers as store
from kilonova.store.database import Row
from kilonova.store.schema.volumes import volume_transfers as table
from kilonova.volume.builtin import transfers as rules


class Create(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    volume_id: str
    name: str | None = None
    no_snapshots: bool = False


class Accept(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    auth_key: str


def _summary(request: Request, row: Row) -> dict[str, Any]:
    return {
        "id": row.id,
        "name": row.name,
        "volume_id": row.volume_id,
        "links": queries.links(request, "os-volume-transfer", row.id),
    }


def _view(request: Request, row: Row) -> dict[str, Any]:
    view = _summary(request, row) | {"created_at": iso8601_micro(row.created_at)}
    if request.at_least(3, 55):
        view["no_snapshots"] = bool(row.no_snapshots)
    if request.at_least(3, 57):
        view["source_project_id"] = row.source_project_id
        view["destination_project_id"] = row.destination_project_id
        view["accepted"] = bool(row.accepted)
    return view


def index(api: VolumeAPI, request: Request) -> Reply:
    return _list(api, request, _summary)


def detail(api: VolumeAPI, request: Request) -> Reply:
    return _list(api, request, _view)


def _list(api: VolumeAPI, request: Request, view: Any) -> Reply:
    window = queries.window(request)
    where = [sa.not_(table.c.accepted), *queries.of_project(request, table.c.source_project_id)]
    known = {
        "name": queries.exactly(table.c.name),
        "volume_id": queries.equals(table.c.volume_id),
        "id": queries.equals(table.c.id),
    }
    where += queries.conditions(request, known, ignored=("is_public",))
    with api.db.read() as conn:
        rows = block_lists.page(conn, table, where, store.KEYS, window)
    body = {"transfers": [view(request, row) for row in rows]}
    path = (
        request.raw.path.partition("/volume/v3")[2].lstrip("/").removeprefix(f"{request.context.project_id}/")
    )
    return Reply(body=body | queries.next_page(request, "transfers", path, rows, window))


def show(api: VolumeAPI, request: Request, transfer_id: str) -> Reply:
    with api.db.read() as conn:
        return Reply(body={"transfer": _view(request, rules.find(conn, request.context, transfer_id))})


def create(api: VolumeAPI, request: Request) -> Reply:
    policy.require_writer(request.context, "volume:create_transfer")
    asked = inputs.envelope(request, "transfer", Create)
    inputs.check_name(asked.name, None)
    with api.db.write() as conn:
        row, key = rules.create(conn, request.context, asked.volume_id, asked.name, asked.no_snapshots)
    return Reply(202, {"transfer": _view(request, row) | {"auth_key": key}})


def accept(api: VolumeAPI, request: Request, transfer_id: str) -> Reply:
    policy.require_writer(request.context, "volume:accept_transfer")
    asked = inputs.envelope(request, "accept", Accept)
    with api.db.write() as conn:
        row = rules.accept(conn, api.parts, request.context, transfer_id, asked.auth_key)
    return Reply(202, {"transfer": _summary(request, row)})


def delete(api: VolumeAPI, request: Request, transfer_id: str) -> Reply:
    policy.require_writer(request.context, "volume:delete_transfer")
    with api.db.write() as conn:
        rules.delete(conn, request.context, transfer_id)
    return Reply(202)


def _routes(path: str, since: tuple[int, int] | None) -> list[Route]:
    one = f"{path}/{{transfer_id}}"
    return [
        Route("GET", path, index, since=since),
        Route("POST", path, create, since=since, creates=True),
        Route("GET", f"{path}/detail", detail, since=since),
        Route("GET", one, show, since=since),
        Route("DELETE", one, delete, since=since),
        Route("POST", f"{one}/accept", accept, since=since, creates=True),
    ]


ROUTES = [*_routes("/os-volume-transfer", None), *_routes("/volume-transfers", (3, 55))]
