"""The notebook's command and environment, and whether it can listen on a Unix socket."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from .base import EX_UNAVAILABLE, Config, Stop

# The first release of jupyter_server with ServerApp.sock.
JUPYTER_SERVER = (1, 9)
QUERY = "import importlib.metadata as m; print(m.version('jupyter_server'))"


def notebook_environment(config: Config, folder: Path, hub_url: str) -> dict[str, str]:
    """The node's environment, then what the hub gave, with our addresses in it."""
    env = dict(os.environ)
    for name, value in config.environment.items():
        env[name] = value.replace(config.hub_placeholder, hub_url)
    # Kernels' sockets and connection files. A home folder may be on a file system without
    # sockets, and its path too long for them.
    if "JUPYTER_RUNTIME_DIR" not in config.environment:
        env["JUPYTER_RUNTIME_DIR"] = f"{folder}/rt"
    # No host in it: JupyterHub 5.5 and 6.1 then set neither address nor port.
    env["JUPYTERHUB_SERVICE_URL"] = f"http+unix://{folder}/nb.sock"
    # A site's proxy must not get the token that is on its way to the loopback port.
    if any(name.lower() in ("http_proxy", "all_proxy") for name in env):
        for name in ("no_proxy", "NO_PROXY"):
            env[name] = ",".join(filter(None, [env.get(name), "127.0.0.1"]))
    return env


def notebook_argv(config: Config, folder: Path) -> list[str]:
    """The notebook's command with its sockets."""
    argv = [
        *config.command,
        f"--ServerApp.sock={folder}/nb.sock",
        "--ServerApp.sock_mode=0600",
        # The default, named because a port in the user's own configuration would clash with
        # the socket ("mutually exclusive").
        "--ServerApp.port=8888",
    ]
    # On TCP any user of the node can read a kernel's outputs: only what is sent to it is
    # signed. A profile whose kernels know no Unix sockets names tcp in its command.
    if not any("transport=" in word for word in config.command):
        argv.append("--KernelManager.transport=ipc")
    return argv


def check_jupyter_server(command: Sequence[str], env: Mapping[str, str]) -> None:
    """Refuse a notebook that would not know ServerApp.sock and listen on TCP; raises Stop."""
    if re.search("notebook|jupyverse", env.get("JUPYTERHUB_SINGLEUSER_APP", ""), re.IGNORECASE):
        raise Stop(
            EX_UNAVAILABLE,
            "JUPYTERHUB_SINGLEUSER_APP names an app that is not jupyter_server's, "
            "and only that one can listen on a Unix socket; leave it out",
        )
    program = shutil.which(command[0], path=env.get("PATH"))
    if program is None:
        raise Stop(
            EX_UNAVAILABLE,
            f"{command[0]} is not on this node's PATH; the profile's prologue must load it",
        )
    python = interpreter_of(Path(program))
    if python is None:
        # A container's or a site's own wrapper: the notebook itself is asked.
        known = "ServerApp.sock" in _output([*command, "--help-all"], env)
        found = "without ServerApp.sock"
    else:
        found = _output([python, "-c", QUERY], env).strip() or "missing"
        version = re.match(r"(\d+)\.(\d+)", found)
        known = version is not None and (int(version[1]), int(version[2])) >= JUPYTER_SERVER
    if not known:
        raise Stop(
            EX_UNAVAILABLE,
            f"the jupyter_server of {program} is {found}, {JUPYTER_SERVER[0]}.{JUPYTER_SERVER[1]} "
            "or newer is needed: without a Unix socket it would listen on a port that other "
            "users of this node can reach",
        )


def interpreter_of(program: Path) -> str | None:
    """The Python that runs a console script, by its first line; None: cannot be told."""
    if re.fullmatch(r"python[0-9.]*", program.name):
        return str(program)
    try:
        with program.open("rb") as file:
            head = file.read(1024).decode("latin-1")
    except OSError:
        return None
    # pip's form for paths that are too long for a first line, or have spaces.
    if long := re.match(r"#!/bin/sh\n'''exec' (?:\"([^\"\n]+)\"|(\S+)) \"\$0\"", head):
        return long[1] or long[2]
    first = re.match(r"#!\s*(?:/usr/bin/env\s+(?:-S\s+)?)?(\S*python[0-9.]*)(?:\s|$)", head)
    return first[1] if first else None


def _output(argv: Sequence[str], env: Mapping[str, str]) -> str:
    try:
        done = subprocess.run(
            argv, env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise Stop(EX_UNAVAILABLE, f"{argv[0]} does not run: {type(exc).__name__}") from exc
    return done.stdout.decode(errors="replace")
