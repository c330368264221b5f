"""The unmodified ``openstack`` client against a served identity API."""

from __future__ import annotations

import io
import json
import logging
import os
import threading
from contextlib import redirect_stderr, redirect_stdout

import pytest
from cheroot import wsgi
from openstackclient.shell import OpenStackShell

from kilonova.api.http import application
from kilonova.api.identity import service


@pytest.fixture
def url(guest):
    identity = guest.identity
    server = wsgi.Server(("127.0.0.1", 0), application([service(identity)], identity.authenticate))
    server.prepare()
    thread = threading.Thread(target=server.serve)
    thread.start()
    yield f"http://127.0.0.1:{server.bind_addr[1]}/identity"
    server.stop()
    thread.join()


@pytest.fixture
def openstack(url, password, folder, monkeypatch):
    """``openstack(*words)`` → what the command printed as JSON. In this process: its imports take seconds."""
    for name in [name for name in os.environ if name.startswith("OS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(folder))
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", list(root.handlers))  # the client adds its own, and its level
    monkeypatch.setattr(root, "level", root.level)
    admin = {
        "OS_USERNAME": "admin",
        "OS_PASSWORD": password,
        "OS_PROJECT_NAME": "admin",
        "OS_USER_DOMAIN_ID": "default",
        "OS_PROJECT_DOMAIN_ID": "default",
    }

    def run(*words: str, env: dict[str, str] | None = None, fails: bool = False, show: bool = True):
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.setenv("OS_AUTH_URL", url)
            for name, value in (env or admin).items():
                patch.setenv(name, value)
            code = OpenStackShell().run([*words, *(["-f", "json"] if show else [])])
        assert (code != 0) is fails, err.getvalue()
        return err.getvalue() if fails or not show else json.loads(out.getvalue())

    return run


def test_a_tenants_life(openstack, url, password):
    token = openstack("token", "issue")
    assert token["project_id"]
    project = openstack("project", "create", "demo", "--description", "d", "--domain", "default")
    user = openstack("user", "create", "ann", "--password", password, "--email", "a@b.c", "--project", "demo")
    assert user["email"] == "a@b.c"
    openstack("role", "add", "--user", "ann", "--project", "demo", "member", show=False)
    assignments = openstack("role", "assignment", "list", "--names", "--user", "ann")
    assert assignments[0]["Role"] == "member"
    assert assignments[0]["Project"] == "demo@Default"

    ann = {
        "OS_USERNAME": "ann",
        "OS_PASSWORD": password,
        "OS_PROJECT_ID": project["id"],
        "OS_USER_DOMAIN_NAME": "Default",
    }
    made = openstack("application", "credential", "create", "ci", "--role", "reader", env=ann)
    robot = {
        "OS_AUTH_TYPE": "v3applicationcredential",
        "OS_APPLICATION_CREDENTIAL_ID": made.get("ID") or made["id"],
        "OS_APPLICATION_CREDENTIAL_SECRET": made.get("Secret") or made["secret"],
    }
    issued = openstack("token", "issue", env=robot)
    assert issued["project_id"] == project["id"]
    assert issued["user_id"] == user["id"]
    openstack("application", "credential", "delete", "ci", env=ann, show=False)
    assert "401" in openstack("token", "issue", env=robot, fails=True)

    assert [item["Name"] for item in openstack("project", "list", env=ann)] == ["demo"]
    assert "403" in openstack("user", "list", env=ann, fails=True)
    openstack("token", "revoke", token["id"], show=False)
    bearer = {"OS_AUTH_TYPE": "v3token", "OS_TOKEN": token["id"], "OS_PROJECT_ID": token["project_id"]}
    assert "401" in openstack("project", "list", env=bearer, fails=True)


def test_lists(openstack):
    assert {item["Name"] for item in openstack("role", "list")} == {"admin", "member", "reader", "service"}
    assert openstack("domain", "list")[0]["Name"] == "Default"
    assert {item["Type"] for item in openstack("catalog", "list")} == {
        "identity",
        "compute",
        "image",
        "network",
        "block-storage",
        "volumev3",
    }
    assert len(openstack("endpoint", "list", "--service", "compute")) == 3
    assert openstack("user", "show", "admin")["name"] == "admin"
