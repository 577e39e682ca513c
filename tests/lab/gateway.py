"""What surrounds tunnelbot in its own tests: the hub's API, a job's ssh, its notebook, visitors.

The gateway and ssh are the real ones. The hub's API is a double at the process edge: a real
HTTP server that answers as handlers.py does, and misbehaves on demand.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import http.server
import socketserver
import subprocess
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from jupyterhub_comet.ssh.principal import new_spawn_id

from .keys import CertificateAuthority, make_key
from .ports import free_port
from .tunnelbot import HOST_PRINCIPAL, Tunnelbot
from .waiting import wait_for

TOKEN = "the-service-token-of-tunnelbot"


@dataclass
class Spawn:
    """What the hub knows of one live spawn."""

    port: int
    verdict: str = "admit"
    reason: str = "live"
    delay_s: float = 0.0


@dataclass
class HubDouble:
    """The hub's API for tunnelbot, in a thread of its own; change its table by ``put``."""

    token: str = TOKEN
    spawns: dict[str, Spawn] = field(default_factory=dict)
    broken_status: int = 0  # answered to everything, if not 0
    rejects: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.port = free_port()
        self.tunnels: dict[str, tuple[str, int]] = {}
        self.reports: list[dict[str, Any]] = []
        self.asked: list[str] = []
        self.refused_tokens = 0
        self._version = 1
        self._loop = asyncio.new_event_loop()
        self._changed = asyncio.Event()
        self._runner: web.AppRunner | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.start()

    def _do(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(20)

    def start(self) -> None:
        """Answer on the same port as before; the table's version begins anew."""
        self._do(self._start())

    def stop(self) -> None:
        """Answer nobody: connections are refused."""
        self._do(self._stop())

    def close(self) -> None:
        """End the thread."""
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def put(self, spawns: dict[str, Spawn | None]) -> None:
        """Change the table and tell those who wait for it."""
        self._do(self._put(spawns))

    async def _put(self, spawns: dict[str, Spawn | None]) -> None:
        for name, spawn in spawns.items():
            if spawn is None:
                self.spawns.pop(name, None)
            else:
                self.spawns[name] = spawn
        self._version += 1
        self._changed.set()
        self._changed = asyncio.Event()

    async def _start(self) -> None:
        app = web.Application(middlewares=[self._guard])
        app.add_routes(
            [
                web.get("/hub/api/comet/spawns/{spawn}", self._one),
                web.get("/hub/api/comet/spawns", self._table),
                web.post("/hub/api/comet/tunnels", self._report),
                web.get("/hub/api/", self._hello),
            ]
        )
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True).start()

    async def _stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if self.broken_status:
            return web.Response(status=self.broken_status, text="broken")
        if request.path == "/hub/api/":
            return await handler(request)  # type: ignore[no-any-return]
        if request.headers.get("Authorization") != f"token {self.token}":
            self.refused_tokens += 1
            return web.json_response({"message": "Forbidden"}, status=403)
        return await handler(request)  # type: ignore[no-any-return]

    async def _hello(self, request: web.Request) -> web.Response:
        return web.json_response({"version": "5.5", "host": request.headers.get("Host", "")})

    async def _one(self, request: web.Request) -> web.Response:
        name = request.match_info["spawn"]
        self.asked.append(name)
        spawn = self.spawns.get(name)
        if spawn is None:
            return web.json_response({"reason": "unknown"}, status=404)
        await asyncio.sleep(spawn.delay_s)
        return web.json_response(
            {
                "spawn": name,
                "port": spawn.port,
                "user": "alice",
                "server": "",
                "job": "7",
                "verdict": spawn.verdict,
                "reason": spawn.reason,
            }
        )

    async def _table(self, request: web.Request) -> web.Response:
        if int(request.query["version"]) == self._version:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(25):
                    await self._changed.wait()
        ports = {name: spawn.port for name, spawn in self.spawns.items()}
        return web.json_response({"version": self._version, "spawns": ports})

    async def _report(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.reports.append(body)
        up = {t["spawn"]: (t["address"], int(t["port"])) for t in body["tunnels"]}
        assert all(float(t["since"]) > 0 for t in body["tunnels"])
        assert body["address"] == "127.0.0.1"
        rejected = {s: r for s, r in self.rejects.items() if s in up}
        if body["full"]:
            self.tunnels = {}
        for name in body["gone"]:
            self.tunnels.pop(name, None)
        self.tunnels.update({s: where for s, where in up.items() if s not in rejected})
        return web.json_response(
            {"rejected": [{"spawn": s, "reason": r} for s, r in rejected.items()]}
        )


class _NotebookHandler(http.server.BaseHTTPRequestHandler):
    """Answers its server's name; /echo returns the body, /bytes/N sends N bytes."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path.startswith("/bytes/"):
            self._answer(bytes(int(self.path.removeprefix("/bytes/"))))
        else:
            self._answer(self.server.name.encode())  # type: ignore[attr-defined]

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers["Content-Length"])))

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "unix"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


class Notebook(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """An HTTP server on a UNIX socket that says its name."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, path: Path, name: str) -> None:
        super().__init__(str(path), _NotebookHandler)
        self.name = name
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        """Stop to answer."""
        self.shutdown()
        self.server_close()


@dataclass(frozen=True)
class Said:
    """What an ended ssh said."""

    status: int
    text: str


class Job:
    """A job of the cluster: key, certificate, notebook, ssh.

    Args:
        folder: its private folder, made here; the path must be short (UNIX sockets).
        lab: the gateway's surroundings.
    """

    def __init__(self, folder: Path, lab: GatewayLab, spawn: str = "") -> None:
        folder.mkdir(mode=0o700)
        self.folder = folder
        self.spawn = spawn or new_spawn_id()
        self._lab = lab
        self.key = folder / "tunnel"
        self._public = make_key(self.key)
        self.certificate = folder / "tunnel-cert.pub"
        self.sign(lab.tunnel_ca)
        (folder / "known_hosts").write_text(
            f"@cert-authority {HOST_PRINCIPAL} {lab.host_ca.public_line}\n"
        )
        self.notebook = Notebook(folder / "nb.sock", self.spawn)
        self.process: subprocess.Popen[str] | None = None

    def sign(
        self,
        ca: CertificateAuthority,
        principals: Sequence[str] | None = None,
        validity: str = "-1m:+1h",
        options: Sequence[str] = ("clear", "permit-port-forwarding"),
    ) -> None:
        """Make the certificate anew; its only principal is the spawn id unless given."""
        ca.sign_user(
            self._public,
            [self.spawn] if principals is None else principals,
            validity=validity,
            options=options,
        )

    FORWARDS = ("-R", "notebook:8888:{folder}/nb.sock", "-L", "{folder}/hub.sock:hub:8081")

    def argv(
        self,
        *extra: str,
        user: str = "",
        forwards: Sequence[str] = FORWARDS,
        certificate: bool = True,
        command: Sequence[str] = (),
    ) -> list[str]:
        """ssh as the starter runs it; ``extra`` options come first and so win."""
        options = [
            "BatchMode=yes",
            "ConnectTimeout=20",
            "ExitOnForwardFailure=yes",
            f"HostKeyAlias={HOST_PRINCIPAL}",
            "IdentitiesOnly=yes",
            "IdentityAgent=none",
            f"IdentityFile={self.key}",
            "GlobalKnownHostsFile=/dev/null",
            "ServerAliveInterval=15",
            "StreamLocalBindMask=0177",
            "StreamLocalBindUnlink=yes",
            "StrictHostKeyChecking=yes",
            "UpdateHostKeys=no",
            f"UserKnownHostsFile={self.folder}/known_hosts",
        ]
        if certificate:
            options.append(f"CertificateFile={self.certificate}")
        words = ["ssh", "-F", "none", *extra]
        for option in options:
            words += ["-o", option]
        words += [word.format(folder=self.folder) for word in forwards]
        words += ["-p", str(self._lab.tunnelbot.port), "-l", user or self.spawn]
        return [*words, "127.0.0.1", *command]

    def run(self, *extra: str, limit_s: float = 25, **kwargs: Any) -> Said:
        """Run ssh to its end (``-N`` must be among ``extra`` if wanted)."""
        done = subprocess.run(
            self.argv(*extra, **kwargs),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
        )
        return Said(done.returncode, done.stderr + done.stdout)

    def dial(self, *extra: str, **kwargs: Any) -> None:
        """Start ssh in the background and return; see ``up``."""
        self.hang_up()
        self.process = subprocess.Popen(
            self.argv("-N", *extra, **kwargs),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def up(self, port: int, limit_s: float = 20) -> None:
        """Dial and wait until the notebook answers with this job's own name."""
        self.dial()
        self.wait_up(port, limit_s)

    def wait_up(self, port: int, limit_s: float = 20) -> None:
        """Wait until the notebook answers with this job's own name on ``port``."""
        wait_for(lambda: visit(port) == (200, self.spawn), "the tunnel", limit_s=limit_s)

    def ended(self, limit_s: float = 20) -> Said:
        """Wait for the end of the ssh in the background."""
        assert self.process is not None
        _, text = self.process.communicate(timeout=limit_s)
        return Said(self.process.returncode, text)

    def hang_up(self) -> None:
        """Kill ssh, if there is one."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate(timeout=10)
            self.process = None

    def close(self) -> None:
        """End ssh and the notebook."""
        self.hang_up()
        self.notebook.close()


def visit(port: int, path: str = "/", *, limit_s: float = 15) -> tuple[int, str]:
    """Ask for a page on a listen port as the proxy does; (0, reason) if nothing answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=limit_s)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    except (OSError, http.client.HTTPException) as exc:
        return 0, repr(exc)
    finally:
        connection.close()


@dataclass
class GatewayLab:
    """A gateway with its hub; ``job()`` makes jobs, ``close`` ends all of it."""

    folder: Path
    tunnel_ca: CertificateAuthority
    host_ca: CertificateAuthority
    hub: HubDouble
    tunnelbot: Tunnelbot
    ports: Iterator[int]
    jobs: list[Job] = field(default_factory=list)

    def job(self, **spawn: Any) -> tuple[Job, int]:
        """A job whose spawn the hub admits on a port of its own."""
        job = self.stranger()
        port = next(self.ports)
        self.hub.put({job.spawn: Spawn(port, **spawn)})
        return job, port

    def stranger(self) -> Job:
        """A job with a good certificate that the hub does not know."""
        job = Job(self.folder / f"j{len(self.jobs)}", self)
        self.jobs.append(job)
        return job

    def log(self) -> str:
        """The gateway's log so far."""
        return self.tunnelbot.log.read_text()

    def metric(self, line: str) -> float:
        """Value of one line of /metrics, for example ``comet_tunnelbot_tunnels``; 0 if absent."""
        for text in self.tunnelbot.admin("/metrics")[1].splitlines():
            name, _, value = text.rpartition(" ")
            if name == line:
                return float(value)
        return 0.0

    def close(self) -> None:
        """End everything."""
        for job in self.jobs:
            job.close()
        self.tunnelbot.kill()
        self.hub.close()
