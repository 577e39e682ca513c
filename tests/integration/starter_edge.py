"""What stands around a starter in its tests: a hub, a gateway, a compute node's user.

Hub and gateway are fakes at the process edge: the gateway is a real SSH server and does what
a test tells it, the hub answers the few requests of a single-user server. test_journey.py
meets the real ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import asyncssh
from aiohttp import web

from jupyterhub_comet.slurm.script import render_script
from jupyterhub_comet.starter import starter_source
from tests.lab.components import require_programs
from tests.lab.environments import node_environment
from tests.lab.keys import CertificateAuthority, make_key
from tests.lab.logs import LOGS, tail
from tests.lab.notebook import Kernel
from tests.lab.users import USERS, ensure_users
from tests.lab.waiting import LabBroken

SPAWN = "t-" + "abcdefghij234567klmnopqrst"
TOKEN = "canary-token-5f1c"
PREFIX = "/user/alice/"
HEADERS = {"Authorization": f"token {TOKEN}"}
ALICE, BOB = USERS["alice"], USERS["bob"]


@asynccontextmanager
async def open_stage() -> AsyncIterator[Stage]:
    """Hub and gateway around a node; everything ends with it."""
    require_programs(("ssh", "ssh-keygen", "setpriv", "unshare", "useradd"))
    ensure_users()
    folder = Path(tempfile.mkdtemp(prefix="cs-"))
    folder.chmod(0o755)
    stage = Stage(folder)
    async with stage.hub.serve():
        stage.gateway.hub_port = stage.hub.port
        await stage.gateway.open()
        try:
            yield stage
        finally:
            await stage.stop()


async def open_kernel(stage: Stage, kernel_id: str = "") -> Kernel:
    """A kernel of the running notebook: a new one, or one that is known."""
    if not kernel_id:
        status, model = await ask_notebook(stage, "POST", "api/kernels")
        assert status == 201
        kernel_id = str(model["id"])
    return Kernel(f"http://127.0.0.1:{stage.gateway.visitors}{PREFIX}", HEADERS, kernel_id)


async def ask_notebook(stage: Stage, method: str, path: str) -> tuple[int, dict[str, object]]:
    """A visitor's request, as the proxy would send it to the gateway."""
    url = f"http://127.0.0.1:{stage.gateway.visitors}{PREFIX}{path}"
    async with (
        aiohttp.ClientSession(headers=HEADERS, timeout=aiohttp.ClientTimeout(30)) as client,
        client.request(method, url) as answer,
    ):
        return answer.status, await answer.json()


async def until(check: Callable[[], object], what: str, *, limit_s: float = 30) -> None:
    """Wait for a true answer without stopping the event loop."""
    deadline = time.monotonic() + limit_s
    while not check():
        if time.monotonic() > deadline:
            raise LabBroken(f"waited {limit_s:g} s for {what}")
        await asyncio.sleep(0.05)


async def run_as(uid: int, argv: Sequence[str], stdin: str = "") -> tuple[int, str]:
    """Exit status and output of a command as another user."""
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT, user=uid, group=uid, extra_groups=[], cwd="/",
    )  # fmt: skip
    out, _ = await process.communicate(stdin.encode())
    return process.returncode or 0, out.decode(errors="replace")


async def python_as(uid: int, code: str) -> tuple[int, str]:
    """The same for a Python program."""
    return await run_as(uid, ["/usr/bin/python3", "-I", "-"], code)


class EdgeHub:
    """The hub's API as a single-user server and a starter see it."""

    def __init__(self, ca: CertificateAuthority) -> None:
        self.requests: list[str] = []
        self.events: list[dict[str, object]] = []
        self.renewed = 0
        self.knows_token = True
        self.port = 0
        self._ca = ca

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[EdgeHub]:
        """Serve on a loopback port."""
        app = web.Application(middlewares=[self._note], client_max_size=1 << 26)
        app.add_routes([
            web.get("/hub/api", self._version),
            web.get("/hub/api/", self._version),
            web.get("/hub/api/user", self._user),
            web.post("/hub/api/users/alice/activity", self._nothing),
            web.post(f"/hub/api/comet/spawns/{SPAWN}/events", self._event),
            web.post(f"/hub/api/comet/spawns/{SPAWN}/certificate", self._certificate),
            web.route("*", "/hub/api/echo", self._echo),
            web.get("/hub/api/stream", self._stream),
            web.get("/hub/home", self._home),
        ])  # fmt: skip
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.port = runner.addresses[0][1]
        try:
            yield self
        finally:
            await runner.cleanup()

    @web.middleware
    async def _note(
        self,
        request: web.Request,
        handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    ) -> web.StreamResponse:
        self.requests.append(f"{request.method} {request.raw_path}")
        return await handler(request)

    def _check(self, request: web.Request) -> None:
        if not self.knows_token or request.headers.get("Authorization") != f"token {TOKEN}":
            raise web.HTTPForbidden

    async def _version(self, _request: web.Request) -> web.Response:
        return web.json_response({"version": "5.5.4"}, headers={"X-JupyterHub-Version": "5.5.4"})

    async def _user(self, request: web.Request) -> web.Response:
        self._check(request)
        scopes = ["access:servers!server=alice/"]
        return web.json_response(
            {"name": "alice", "kind": "user", "admin": False, "groups": [], "scopes": scopes,
             "session_id": None, "token_id": "a1"}
        )  # fmt: skip

    async def _nothing(self, request: web.Request) -> web.Response:
        self._check(request)
        return web.Response(status=200)

    async def _event(self, request: web.Request) -> web.Response:
        self._check(request)
        self.events.append(await request.json())
        return web.Response(status=204)

    async def _certificate(self, request: web.Request) -> web.Response:
        self._check(request)
        old = asyncssh.import_certificate((await request.json())["certificate"])
        self.renewed += 1
        new = asyncssh.read_private_key(self._ca.key).generate_user_certificate(
            old.key, "renewed", serial=4711, principals=[SPAWN], permit_port_forwarding=True
        )
        line = new.export_certificate("openssh").decode().strip()
        return web.json_response({"certificate": line, "valid_before": time.time() + 3600})

    async def _echo(self, request: web.Request) -> web.Response:
        body = await request.read()
        told = {
            "method": request.method,
            "query": request.raw_path.partition("?")[2],
            "length": len(body),
            "headers": dict(request.headers),
        }
        return web.json_response(told)

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        for _ in range(64):
            await response.write(b"x" * 4096)
        if "cut" in request.query:
            assert request.transport is not None
            request.transport.abort()
        return response

    async def _home(self, _request: web.Request) -> web.Response:
        return web.Response(text="not for the notebook")


class EdgeGateway:
    """An SSH server in tunnelbot's place.

    Attributes:
        mode: ``admit``; ``deny`` (no certificate is good); ``ended`` (tunnelbot's word for it).
        forwards: the forwards that were asked for, as ``listen HOST PORT`` or ``connect ...``.
        visitors: loopback port of the newest tunnel's listener; 0: there is none.
    """

    def __init__(self, tunnel_ca: CertificateAuthority, host_ca: CertificateAuthority) -> None:
        self.mode = "admit"
        self.hub_port = 0
        self.forwards: list[str] = []
        self.serials: list[int] = []
        self.logins = 0
        self.visitors = 0
        self.connections: set[asyncssh.SSHServerConnection] = set()
        self._ca_line = tunnel_ca.public_line
        self.port = self._free_port()
        self._server: asyncssh.SSHAcceptor | None = None
        self.key = host_ca.folder / "edge-host-key"
        host_ca.sign_host(make_key(self.key), ["comet-tunnelbot"])

    @staticmethod
    def _free_port() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])

    @property
    def is_open(self) -> bool:
        """Whether it listens."""
        return self._server is not None

    async def open(self, key: Path | None = None) -> None:
        """Listen; with another host key than the one that jobs trust, for T34."""
        cert = None if key else self.key.with_name("edge-host-key-cert.pub")
        keys = (str(key or self.key), str(cert)) if cert else str(key)
        self._server = await asyncssh.listen(
            "127.0.0.1", self.port, server_factory=lambda: _EdgeServer(self),
            server_host_keys=[keys], reuse_address=True,
            authorized_client_keys=asyncssh.import_authorized_keys(
                f"cert-authority {self._ca_line}"
            ),
        )  # fmt: skip

    async def close(self) -> None:
        """Stop listening and cut every tunnel."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.cut()

    def cut(self) -> None:
        """Cut every tunnel; new ones are taken."""
        for connection in list(self.connections):
            connection.abort()


class _EdgeServer(asyncssh.SSHServer):
    def __init__(self, gateway: EdgeGateway) -> None:
        self._gateway = gateway

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._conn = conn
        self._gateway.connections.add(conn)

    def connection_lost(self, _exc: Exception | None) -> None:
        self._gateway.connections.discard(self._conn)

    def begin_auth(self, _username: str) -> bool:
        self._gateway.logins += 1
        if self._gateway.mode == "ended":
            raise asyncssh.DisconnectError(14, "comet-tunnelbot: server ended (unknown)")
        if self._gateway.mode == "deny":
            self._conn.set_authorized_keys(asyncssh.import_authorized_keys(""))
        return True

    def connection_requested(
        self, dest_host: str, dest_port: int, _orig_host: str, _orig_port: int
    ) -> Awaitable[asyncssh.SSHTCPSession[bytes]] | bool:
        self._gateway.forwards.append(f"connect {dest_host} {dest_port}")
        if (dest_host, dest_port) != ("hub", 8081):
            return False
        return self._conn.forward_connection("127.0.0.1", self._gateway.hub_port)

    def server_requested(
        self, listen_host: str, listen_port: int
    ) -> Awaitable[asyncssh.SSHListener] | bool:
        self._gateway.forwards.append(f"listen {listen_host} {listen_port}")
        if (listen_host, listen_port) != ("notebook", 8888):
            return False
        return self._listen()

    async def _listen(self) -> asyncssh.SSHListener:
        listener = await self._conn.forward_local_port("127.0.0.1", 0, "notebook", 8888)
        self._gateway.visitors = listener.get_port()
        return listener


class RunningStarter:
    """A job script that runs as alice, as Slurm would run it."""

    def __init__(self, folder: Path, process: asyncio.subprocess.Process) -> None:
        self.folder = folder
        self.process = process
        self.output = folder / "job.log"

    @property
    def log(self) -> str:
        """The job's output so far."""
        return self.output.read_text()

    async def said(self, pattern: str, *, limit_s: float = 40) -> re.Match[str]:
        """Wait for a line in the job's output."""
        try:
            await until(
                lambda: re.search(pattern, self.log) or self.process.returncode is not None,
                f"{pattern!r} in the job's output", limit_s=limit_s,
            )  # fmt: skip
        except LabBroken as exc:
            raise LabBroken(f"{exc}; it ends:\n{tail(self.output)}") from exc
        if match := re.search(pattern, self.log):
            return match
        raise LabBroken(f"the job ended; its output ends:\n{tail(self.output)}")

    async def ended(self, *, limit_s: float = 40) -> int:
        """Wait for the job's end; its exit status."""
        return await asyncio.wait_for(self.process.wait(), limit_s)

    @property
    def private(self) -> Path:
        """The starter's private folder."""
        return next(self.folder.glob("tmp/comet-*"))

    def pid_of(self, words: str) -> int | None:
        """Pid of the job's process whose command line has these words."""
        for pid in self.pids():
            if words in _command_line(pid):
                return pid
        return None

    def pids(self) -> list[int]:
        """The job's processes, the batch shell first."""
        found, todo = [], [self.process.pid]
        while todo:
            pid = todo.pop()
            found.append(pid)
            for task in Path(f"/proc/{pid}/task").glob("*/children"):
                with contextlib.suppress(OSError):
                    todo += map(int, task.read_text().split())
        return found

    async def stop(self) -> None:
        """End whatever is left of the job."""
        pids = self.pids()
        if self.process.returncode is None:
            self.process.terminate()
            try:
                await asyncio.wait_for(self.process.wait(), 20)
            except TimeoutError:
                for pid in pids:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                await self.process.wait()


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


class Stage:
    """Hub, gateway and the node of one test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        secrets = folder / "secrets"
        secrets.mkdir(mode=0o700)
        self.tunnel_ca = CertificateAuthority(secrets / "tunnel-ca")
        self.host_ca = CertificateAuthority(secrets / "host-ca")
        self.key = secrets / "job-key"
        self.certificate = self.tunnel_ca.sign_user(
            make_key(self.key), [SPAWN], options=("clear", "permit-port-forwarding")
        )
        self.hub = EdgeHub(self.tunnel_ca)
        self.gateway = EdgeGateway(self.tunnel_ca, self.host_ca)
        self._running: list[RunningStarter] = []

    def config(self, line: str = "5.5", **changes: object) -> dict[str, object]:
        """A job configuration, as the hub makes it."""
        environment = {
            "JUPYTERHUB_API_TOKEN": TOKEN,
            "JUPYTERHUB_API_URL": "http://hub-api.invalid/hub/api",
            "JUPYTERHUB_ACTIVITY_URL": "http://hub-api.invalid/hub/api/users/alice/activity",
            "JUPYTERHUB_BASE_URL": "/",
            "JUPYTERHUB_SERVICE_PREFIX": PREFIX,
            "JUPYTERHUB_SERVICE_URL": "http://0.0.0.0:0" + PREFIX,
            "JUPYTERHUB_CLIENT_ID": "jupyterhub-user-alice",
            "JUPYTERHUB_HOST": "",
            "JUPYTERHUB_OAUTH_CALLBACK_URL": PREFIX + "oauth_callback",
            "JUPYTERHUB_OAUTH_ACCESS_SCOPES": json.dumps(["access:servers!server=alice/"]),
            "JUPYTERHUB_OAUTH_SCOPES": json.dumps(["access:servers!server=alice/"]),
            "JUPYTERHUB_USER": "alice",
            "JUPYTERHUB_SERVER_NAME": "",
        }
        config: dict[str, object] = {
            "spawn": SPAWN,
            "gateway": {
                "host": "127.0.0.1",
                "port": self.gateway.port,
                "host_key_alias": "comet-tunnelbot",
                "known_hosts": f"@cert-authority comet-tunnelbot {self.host_ca.public_line}\n",
                "proxy_command": "",
            },
            "private_key": self.key.read_text(),
            "certificate": self.certificate.read_text().strip(),
            "hub_placeholder": "http://hub-api.invalid",
            "hub_prefix": "/hub/api/",
            "command": [str(node_environment(line) / "bin" / "jupyterhub-singleuser")],
            "environment": environment,
        }
        more = changes.pop("environment", {})
        assert isinstance(more, Mapping)
        environment.update(more)
        return {**config, **changes}

    async def start(
        self,
        config: Mapping[str, object],
        *,
        prologue: str = "",
        epilogue: str = "",
        prefix: Sequence[str] = (),
    ) -> RunningStarter:
        """Run the job script as alice; `prefix` goes before its command."""
        folder = Path(tempfile.mkdtemp(prefix="", dir=self.folder))
        os.chown(folder, ALICE, ALICE)
        (folder / "tmp").mkdir(mode=0o755)
        os.chown(folder / "tmp", ALICE, ALICE)
        folder.chmod(0o755)
        script = folder / "slurm_script"
        script.touch(0o700)
        os.chown(script, ALICE, ALICE)
        script.write_text(
            render_script(
                config=config,
                python="/usr/bin/python3",
                prologue=prologue,
                epilogue=epilogue,
                starter_source=starter_source(),
            )
        )
        as_alice = [] if prefix else ["setpriv", "--reuid=10001", "--regid=10001", "--clear-groups"]
        with (folder / "job.log").open("wb") as out:
            process = await asyncio.create_subprocess_exec(
                *prefix, *as_alice, "/bin/bash", str(script),
                stdin=asyncio.subprocess.DEVNULL, stdout=out, stderr=out, cwd="/home/alice",
                start_new_session=True,
                env={"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/home/alice",
                     "TMPDIR": str(folder / "tmp"), "LC_ALL": "C.UTF-8"},
            )  # fmt: skip
        running = RunningStarter(folder, process)
        LOGS.add("job", running.output)
        self._running.append(running)
        return running

    async def start_and_wait(self, **config: object) -> RunningStarter:
        """A job whose notebook can be visited."""
        job = await self.start(self.config(**config))  # type: ignore[arg-type]
        await job.said("tunnel up")
        await job.said("notebook listening")
        return job

    async def stop(self) -> None:
        """End all jobs, the gateway, and remove the folder."""
        for job in self._running:
            await job.stop()
        await self.gateway.close()
        LOGS.forget(self.folder)
        shutil.rmtree(self.folder, ignore_errors=True)
