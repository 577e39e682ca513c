"""Decisions of the starter that need no node: paths, interpreters, arguments, configuration."""

from __future__ import annotations

import ast
import base64
import json
import os
import shutil
import socket
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from jupyterhub_comet.starter import base, notebook, relay, starter_source, tunnel

pytestmark = pytest.mark.unit

CONFIG = {
    "spawn": "t-" + "a" * 26,
    "gateway": {
        "host": "gateway.example.org",
        "port": 443,
        "host_key_alias": "comet-tunnelbot",
        "known_hosts": "@cert-authority comet-tunnelbot ssh-ed25519 AAAA\n",
    },
    "private_key": "canary-key",
    "certificate": "canary-certificate",
    "hub_placeholder": "http://hub-api.invalid",
    "hub_prefix": "/hub/api/",
    "command": ["jupyterhub-singleuser", "--debug"],
    "environment": {"JUPYTERHUB_API_URL": "http://hub-api.invalid/hub/api", "A": "b"},
}


def read(**changes: object) -> base.Config:
    line = base64.b64encode(json.dumps({**CONFIG, **changes}).encode())
    return base.Config.read(line + b"\n")


# The source


def test_source_is_ascii_and_parses_on_python_3_9() -> None:
    source = starter_source()
    assert source.isascii()
    ast.parse(source, feature_version=(3, 9))
    assert "#SBATCH" not in source


def test_parts_share_no_names() -> None:
    names: list[str] = []
    for node in ast.parse(starter_source()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.append(node.name)
        elif isinstance(node, ast.Assign):
            names += [target.id for target in node.targets if isinstance(target, ast.Name)]
    assert len(names) == len(set(names))


def test_source_has_no_joints_left() -> None:
    imports = [n for n in ast.walk(ast.parse(starter_source())) if isinstance(n, ast.ImportFrom)]
    assert not any(node.level for node in imports)
    assert [n.module for n in imports].count("__future__") == 1


# Paths that the relay lets through (T26)


@pytest.mark.parametrize(
    "target",
    [
        "/hub/api",
        "/hub/api/",
        "/hub/api?x=/../",
        "/hub/api/users/alice/activity",
        "/hub/api/users/a%40b/activity",
        "/hub/api/users/a.b/activity",
        "/hub/api/oauth2/token",
    ],
)
def test_T26_the_hubs_api_passes(target: str) -> None:
    assert relay.path_allowed(target, "/hub/api/")


@pytest.mark.parametrize(
    "target",
    [
        "",
        "*",
        "/",
        "/hub/",
        "/hub/apix",
        "/hub/home",
        "/hub/api/../home",
        "/hub/api/..",
        "/hub/api/.",
        "/hub/api/./x",
        "/hub/api//users",
        "//hub/api/users",
        "/hub/api/%2e%2e/home",
        "/hub/api/%2E%2E%2Fhome",
        "/hub/api/..%2fhome",
        "/hub/api/%252e%252e/home",
        "/hub/api/x%5c..%5chome",
        "/hub/api/\\..\\home",
        "/hub/api/%00",
        "/hub/api/#/../home",
        "/hub/api/é",
        "/hub/api/\x01",
        "http://127.0.0.1/hub/api/users",
        "http://elsewhere/hub/api/",
        "127.0.0.1:8081",
        "/HUB/API/users",
    ],
)
def test_T26_anything_else_does_not(target: str) -> None:
    assert not relay.path_allowed(target, "/hub/api/")


def test_own_end_of_a_connection_is_found_in_both_tables() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        own = server.getsockname()
        for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::ffff:127.0.0.1")):
            client = socket.socket(family)
            client.connect((host, own[1]))
            accepted, peer = server.accept()
            with accepted:
                assert relay.peer_uid(peer, own) == os.getuid()
                # A closed end belongs to nobody, although the kernel says "uid 0" of it.
                client.close()
                assert relay.peer_uid(peer, own) is None


# The configuration


def test_configuration_is_read() -> None:
    config = read()
    assert (config.host, config.port) == ("gateway.example.org", 443)
    assert config.command == ["jupyterhub-singleuser", "--debug"]


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"not base64!",
        base64.b64encode(b"[]"),
        base64.b64encode(b"{}"),
        base64.b64encode(json.dumps({**CONFIG, "command": []}).encode()),
        base64.b64encode(json.dumps({**CONFIG, "hub_prefix": "/hub/api"}).encode()),
        base64.b64encode(json.dumps({**CONFIG, "environment": ["canary"]}).encode()),
    ],
)
def test_unreadable_configuration_stops_without_telling_it(line: bytes) -> None:
    with pytest.raises(base.Stop) as stopped:
        base.Config.read(line)
    assert stopped.value.status == 78
    assert "canary" not in str(stopped.value)


# The private folder


def test_folder_is_private_and_in_the_jobs_own_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = Path(tempfile.mkdtemp())  # pytest's own folders are too deep for sockets
    monkeypatch.setenv("TMPDIR", str(place))
    folder = base.make_folder()
    assert folder.parent == place
    assert folder.stat().st_mode & 0o777 == 0o700
    base.write_private(folder / "key", "canary")
    assert (folder / "key").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in folder.iterdir()] == ["key"]
    shutil.rmtree(place)


def too_long(place: Path) -> Path:
    return place / ("x" * 25)


def with_a_space(place: Path) -> Path:
    return place / "a b"


def open_to_all(place: Path) -> Path:
    place.chmod(0o777)
    return place


def missing(place: Path) -> Path:
    return place / "missing"


@pytest.mark.parametrize("spoil", [too_long, with_a_space, open_to_all, missing])
def test_a_place_that_does_not_serve_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Path], Path]
) -> None:
    parent = Path(tempfile.mkdtemp())
    place = spoil(parent)
    if spoil is not missing:
        place.mkdir(exist_ok=True)
    monkeypatch.setenv("TMPDIR", str(place))
    folder = base.make_folder()
    try:
        assert folder.parent in (Path("/tmp"), Path("/dev/shm"))
    finally:
        folder.rmdir()
        shutil.rmtree(parent)


# The notebook


@pytest.mark.parametrize(
    ("first_lines", "python"),
    [
        ("#!/opt/jupyter/bin/python3\n", "/opt/jupyter/bin/python3"),
        ("#!/opt/jupyter/bin/python3.12 -sE\n", "/opt/jupyter/bin/python3.12"),
        ("#!/usr/bin/env python3\n", "python3"),
        ("#!/usr/bin/env -S python3 -s\n", "python3"),
        ("#!/bin/sh\n'''exec' \"/a b/bin/python\" \"$0\" \"$@\"\n' '''\n", "/a b/bin/python"),
        ("#!/bin/sh\n'''exec' /long/bin/python3 \"$0\" \"$@\"\n' '''\n", "/long/bin/python3"),
        ("#!/bin/bash\nexec apptainer exec image.sif \"$@\"\n", None),
        ("\x7fELF", None),
        ("", None),
    ],
)  # fmt: skip
def test_interpreter_of_a_console_script(
    tmp_path: Path, first_lines: str, python: str | None
) -> None:
    script = tmp_path / "jupyterhub-singleuser"
    script.write_text(first_lines)
    assert notebook.interpreter_of(script) == python


def test_notebook_gets_the_relay_for_the_hub_and_no_tcp_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    env = notebook.notebook_environment(read(), Path("/tmp/comet-x"), "http://127.0.0.1:4711")
    assert env["JUPYTERHUB_API_URL"] == "http://127.0.0.1:4711/hub/api"
    assert env["JUPYTERHUB_SERVICE_URL"] == "http+unix:///tmp/comet-x/nb.sock"
    assert env["PATH"] == os.environ["PATH"]
    assert not any("canary" in value for value in env.values())
    assert "NO_PROXY" not in env


def test_a_sites_proxy_is_not_sent_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy.example.org:3128")
    monkeypatch.setenv("no_proxy", ".example.org")
    env = notebook.notebook_environment(read(), Path("/tmp/comet-x"), "http://127.0.0.1:4711")
    assert env["no_proxy"] == ".example.org,127.0.0.1"


def test_T22_kernels_use_unix_sockets_unless_the_profile_says_tcp() -> None:
    folder = Path("/tmp/comet-x")
    assert "--KernelManager.transport=ipc" in notebook.notebook_argv(read(), folder)
    told = read(command=["jupyterhub-singleuser", "--KernelManager.transport=tcp"])
    assert not any("ipc" in word for word in notebook.notebook_argv(told, folder))


def test_the_longest_folder_has_room_for_a_kernels_socket(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = Path("/tmp/" + "x" * 33)
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    try:
        folder = base.make_folder()
        assert folder.parent == place
        env = notebook.notebook_environment(read(), folder, "http://127.0.0.1:4711")
        Path(env["JUPYTER_RUNTIME_DIR"]).mkdir()
        with socket.socket(socket.AF_UNIX) as kernel:
            kernel.bind(f"{env['JUPYTER_RUNTIME_DIR']}/kernel-{uuid.uuid4()}-ipc-99")
    finally:
        shutil.rmtree(place)


@pytest.mark.parametrize("app", ["notebook", "notebook.notebookapp.NotebookApp", "jupyverse"])
def test_T22_apps_without_a_unix_socket_are_refused(app: str) -> None:
    with pytest.raises(base.Stop, match="JUPYTERHUB_SINGLEUSER_APP"):
        notebook.check_jupyter_server(["true"], {"JUPYTERHUB_SINGLEUSER_APP": app})


# ssh


def test_ssh_gets_no_secret_and_nothing_of_the_users_configuration() -> None:
    argv = tunnel.ssh_argv(read(), Path("/tmp/comet-x"), "/usr/bin/ssh")
    assert not any("canary" in word for word in argv)
    assert argv[argv.index("-F") + 1] == "none"
    assert argv[argv.index("-R") + 1] == "notebook:8888:/tmp/comet-x/nb.sock"
    assert argv[argv.index("-L") + 1] == "/tmp/comet-x/hub.sock:hub:8081"
    assert "StrictHostKeyChecking=yes" in argv
    assert not any(word.startswith("ProxyCommand") for word in argv)


def test_ssh_takes_the_sites_proxy_command() -> None:
    gateway = {**CONFIG["gateway"], "proxy_command": "nc -X connect -x proxy:3128 %h %p"}  # type: ignore[dict-item]
    argv = tunnel.ssh_argv(read(gateway=gateway), Path("/tmp/comet-x"), "/usr/bin/ssh")
    assert "ProxyCommand=nc -X connect -x proxy:3128 %h %p" in argv


def test_the_systems_ssh_is_kept_from_libraries_of_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "/apps/conda/lib")
    assert "LD_LIBRARY_PATH" not in tunnel.ssh_environment("/usr/bin/ssh")
    assert "LD_LIBRARY_PATH" in tunnel.ssh_environment("/apps/openssh/bin/ssh")


@pytest.mark.parametrize(
    ("said", "strangers", "refused_s", "status"),
    [
        ("Connection refused", 0, 0, None),
        ("Permission denied (publickey).", 0, 1700, None),
        ("Permission denied (publickey).", 0, 1900, 77),
        ("Received disconnect: 14: comet-tunnelbot: server ended (unknown)", 0, 0, 77),
        ("Received disconnect: 14: comet-tunnelbot: server later (pending)", 0, 9, None),
        ("Host key verification failed.", 2, 0, None),
        ("Host key verification failed.", 3, 0, 76),
    ],
    ids=["down", "refused", "refused for good", "ended", "later", "stranger", "third stranger"],
)
def test_what_ends_a_job(said: str, strangers: int, refused_s: float, status: int | None) -> None:
    stop = tunnel.final_word(said, strangers=strangers, refused_s=refused_s)
    assert (stop.status if stop else None) == status
