"""The whole identity API: method, path, who may, and the function that answers."""

from __future__ import annotations

from collections.abc import Iterator

from kilonova.api.http import Handler, Route
from kilonova.api.identity import (
    application_credentials,
    catalog,
    domains,
    groups,
    projects,
    role_assignments,
    roles,
    tokens,
    users,
    versions,
)
from kilonova.api.identity.policy import admin, inside_domain, inside_project, owner, owner_or_admin
from kilonova.domain.identity import Actor, Target


def _get(path: str, handler: Handler, *, public: bool = False) -> Iterator[Route]:
    """GET, and HEAD: the same without its body."""
    for method in ("GET", "HEAD"):
        yield Route(method, path, handler, public=public)


def _grants() -> Iterator[Route]:
    """…/roles of each kind of actor on each kind of target."""
    where = {
        Target.PROJECT: "/v3/projects/{project_id}",
        Target.DOMAIN: "/v3/domains/{domain_id}",
        Target.SYSTEM: "/v3/system",
    }
    for target, path in where.items():
        for actor in Actor:
            held = f"{path}/{actor}s/{{{actor}_id}}/roles"
            role = f"{held}/{{role_id}}"

            def on(handler: role_assignments.Grant, target: Target = target, actor: Actor = actor) -> Handler:
                return role_assignments.on(target, actor, handler)

            yield from _get(held, admin("list_grants", on(role_assignments.held)))
            yield from _get(role, admin("check_grant", on(role_assignments.check)))
            yield Route("PUT", role, admin("create_grant", on(role_assignments.add)))
            yield Route("DELETE", role, admin("revoke_grant", on(role_assignments.remove)))


def _read_only() -> Iterator[Route]:
    """The catalog, which only reads."""
    for many, index, show in (
        ("service", catalog.services, catalog.service),
        ("endpoint", catalog.endpoints, catalog.endpoint),
        ("region", catalog.regions, catalog.region),
    ):
        path, one = f"/v3/{many}s", f"/v3/{many}s/{{{many}_id}}"
        yield from _get(path, admin(f"list_{many}s", index))
        yield from _get(one, admin(f"get_{many}", show))
        yield Route("POST", path, admin(f"create_{many}", catalog.read_only))
        yield Route("PATCH", one, admin(f"update_{many}", catalog.read_only))
        yield Route("DELETE", one, admin(f"delete_{many}", catalog.read_only))


_CREDENTIALS = "/v3/users/{user_id}/application_credentials"
_MEMBER = "/v3/groups/{group_id}/users/{user_id}"
_TAG = "/v3/projects/{project_id}/tags/{tag}"
_IMPLIED = "/v3/roles/{role_id}/implies/{implied_role_id}"

ROUTES = (
    *_get("", versions.index, public=True),
    *_get("/v3", versions.show, public=True),
    # Tokens: whoever holds one.
    Route("POST", "/v3/auth/tokens", tokens.create, public=True),
    *_get("/v3/auth/tokens", tokens.show),
    Route("DELETE", "/v3/auth/tokens", tokens.delete),
    *_get("/v3/auth/catalog", tokens.catalog),
    *_get("/v3/auth/projects", tokens.my_projects),
    *_get("/v3/auth/domains", tokens.my_domains),
    *_get("/v3/auth/system", tokens.my_system),
    *_get("/v3/domains", admin("list_domains", domains.index)),
    Route("POST", "/v3/domains", admin("create_domain", domains.create), creates=True),
    *_get("/v3/domains/{domain_id}", inside_domain("get_domain", domains.show)),
    Route("PATCH", "/v3/domains/{domain_id}", admin("update_domain", domains.update)),
    Route("DELETE", "/v3/domains/{domain_id}", admin("delete_domain", domains.delete)),
    *_get("/v3/projects", admin("list_projects", projects.index)),
    Route("POST", "/v3/projects", admin("create_project", projects.create), creates=True),
    *_get("/v3/projects/{project_id}", inside_project("get_project", projects.show)),
    Route("PATCH", "/v3/projects/{project_id}", admin("update_project", projects.update)),
    Route("DELETE", "/v3/projects/{project_id}", admin("delete_project", projects.delete)),
    *_get("/v3/projects/{project_id}/tags", inside_project("list_project_tags", projects.tags)),
    Route("PUT", "/v3/projects/{project_id}/tags", admin("update_project_tags", projects.set_tags)),
    Route("DELETE", "/v3/projects/{project_id}/tags", admin("delete_project_tags", projects.clear_tags)),
    *_get(_TAG, inside_project("get_project_tag", projects.has_tag)),
    Route("PUT", _TAG, admin("create_project_tag", projects.add_tag)),
    Route("DELETE", _TAG, admin("delete_project_tag", projects.remove_tag)),
    *_get("/v3/users", admin("list_users", users.index)),
    Route("POST", "/v3/users", admin("create_user", users.create), creates=True),
    *_get("/v3/users/{user_id}", owner_or_admin("get_user", users.show)),
    Route("PATCH", "/v3/users/{user_id}", admin("update_user", users.update)),
    Route("DELETE", "/v3/users/{user_id}", admin("delete_user", users.delete)),
    Route("POST", "/v3/users/{user_id}/password", users.change_password, public=True),
    *_get("/v3/users/{user_id}/projects", owner_or_admin("list_user_projects", projects.of_user)),
    *_get("/v3/users/{user_id}/groups", owner_or_admin("list_groups_for_user", groups.of_user)),
    *_get("/v3/groups", admin("list_groups", groups.index)),
    Route("POST", "/v3/groups", admin("create_group", groups.create), creates=True),
    *_get("/v3/groups/{group_id}", admin("get_group", groups.show)),
    Route("PATCH", "/v3/groups/{group_id}", admin("update_group", groups.update)),
    Route("DELETE", "/v3/groups/{group_id}", admin("delete_group", groups.delete)),
    *_get("/v3/groups/{group_id}/users", admin("list_users_in_group", groups.members)),
    *_get(_MEMBER, admin("check_user_in_group", groups.has_member)),
    Route("PUT", _MEMBER, admin("add_user_to_group", groups.add_member)),
    Route("DELETE", _MEMBER, admin("remove_user_from_group", groups.remove_member)),
    *_get("/v3/roles", admin("list_roles", roles.index)),
    Route("POST", "/v3/roles", admin("create_role", roles.create), creates=True),
    *_get("/v3/roles/{role_id}", admin("get_role", roles.show)),
    Route("PATCH", "/v3/roles/{role_id}", admin("update_role", roles.update)),
    Route("DELETE", "/v3/roles/{role_id}", admin("delete_role", roles.delete)),
    *_get("/v3/role_inferences", admin("list_role_inference_rules", roles.inferences)),
    *_get("/v3/roles/{role_id}/implies", admin("list_implied_roles", roles.implied)),
    *_get(_IMPLIED, admin("get_implied_role", roles.rule)),
    Route("PUT", _IMPLIED, admin("create_implied_role", roles.imply)),
    Route("DELETE", _IMPLIED, admin("delete_implied_role", roles.unimply)),
    *_grants(),
    *_get("/v3/role_assignments", admin("list_role_assignments", role_assignments.index)),
    *_get(_CREDENTIALS, owner_or_admin("list_application_credentials", application_credentials.index)),
    Route(
        "POST",
        _CREDENTIALS,
        owner("create_application_credential", application_credentials.create),
        creates=True,
    ),
    *_get(
        f"{_CREDENTIALS}/{{credential_id}}",
        owner_or_admin("get_application_credential", application_credentials.show),
    ),
    Route(
        "DELETE",
        f"{_CREDENTIALS}/{{credential_id}}",
        owner_or_admin("delete_application_credential", application_credentials.delete),
    ),
    *_read_only(),
)
