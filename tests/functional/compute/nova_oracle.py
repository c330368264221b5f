"""Runs under a Python that has nova: are these exchanges what Nova's own schemas allow?

Standard input: a JSON list of exchanges {method, path, version, request, status, response}; ``path`` is below
/v2.1, without the query. Standard output: a JSON list of complaints. Nova's schemas of requests and
responses, by microversion, and its status codes are read off its controllers; nothing of Nova is started.
"""

import json
import re
import sys
import warnings
from types import SimpleNamespace

warnings.simplefilter("ignore")

from nova import exception  # noqa: E402
from nova.api.openstack.api_version_request import APIVersionRequest  # noqa: E402
from nova.api.openstack.compute import routes  # noqa: E402
from nova.api.validation import validators  # noqa: E402


def main():
    table = [
        (re.compile(re.sub(r"\{\w+(:[^}]*)?\}", "([^/]+)", path)), path, methods)
        for path, methods in routes.ROUTE_LIST
        if not isinstance(methods, str)
    ]
    # Fixed paths before those with parameters: /flavors/detail is no flavor.
    table.sort(key=lambda row: row[1].count("{"))
    complaints = []
    for exchange in json.load(sys.stdin):
        where = "{method} {path} at {version} → {status}: ".format(**exchange)
        complaints += [where + text for text in judge(table, exchange)]
    json.dump(complaints, sys.stdout)


def judge(table, exchange):
    handler = find(table, exchange)
    if handler is None:
        if exchange["status"] < 400:
            yield "Nova has no such operation"
        return
    version = APIVersionRequest(exchange["version"])
    if hasattr(handler, "min_version") and not version.matches(
        APIVersionRequest(handler.min_version), APIVersionRequest(handler.max_version)
    ):
        if exchange["status"] not in (400, 404, 405):
            yield "not in this microversion"
        return
    if exchange["status"] >= 400:
        return
    request = SimpleNamespace(api_version_request=version)
    codes = getattr(handler, "wsgi_codes", None)
    expected = codes(request) if codes else 200
    if exchange["status"] != expected:
        yield f"Nova's status is {expected}"
    for kind in ("request", "response"):
        schemas = getattr(handler, f"{kind}_body_schemas", None)
        schema = schemas(request) if schemas else None
        if schema is None:
            continue
        try:
            validators._SchemaValidator(schema, False, True).validate(exchange[kind])
        except exception.ValidationError as error:
            yield f"{kind}: {error} in {json.dumps(exchange[kind])[:500]}"


def find(table, exchange):
    for pattern, _path, methods in table:
        if pattern.fullmatch(exchange["path"] or "/") and exchange["method"] in methods:
            create, action = methods[exchange["method"]]
            controller, *more = create.args
            if action != "action":
                return getattr(controller, action, None)
            for cls in (controller, *(more[0] if more else ())):
                for name, method in getattr(cls, "wsgi_actions", {}).items():
                    if name in (exchange["request"] or {}):
                        return getattr(cls, method)
            return None
    return None


main()
