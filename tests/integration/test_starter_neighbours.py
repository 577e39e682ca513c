"""Another user of the same compute node against a running notebook (T22 to T26, T41)."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.integration.starter_edge import (
    ALICE,
    BOB,
    TOKEN,
    RunningStarter,
    Stage,
    open_kernel,
    open_stage,
    python_as,
    until,
)

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(180),
    pytest.mark.asyncio(loop_scope="module"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    """Hub and gateway around a node, for all tests here."""
    async with open_stage() as stage:
        yield stage


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def job(stage: Stage) -> RunningStarter:
    """A running notebook of alice."""
    return await stage.start_and_wait(check_seconds=3600)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bare_relay(stage: Stage) -> int:
    """Port of a relay whose notebook only tells it: what is under test is the relay."""
    program = stage.folder / "sleeper"
    program.write_text(
        '#!/bin/sh\ncase "$*" in *help-all*) echo ServerApp.sock; exit;; esac\n'
        'echo "$JUPYTERHUB_API_URL" | sed "s/.*:\\([0-9]*\\).*/relay=\\1/"\nexec sleep 1000\n'
    )
    program.chmod(0o755)
    job = await stage.start(stage.config(command=[str(program)], check_seconds=3600))
    await job.said("tunnel up")
    return int((await job.said(r"relay=(\d+)"))[1])


def relay_port(job: RunningStarter) -> int:
    """The loopback port for the hub's API, from the notebook's environment."""
    pid = job.pid_of("jupyterhub-singleuser")
    environment = Path(f"/proc/{pid}/environ").read_text()
    match = re.search(r"JUPYTERHUB_API_URL=http://127\.0\.0\.1:(\d+)/", environment)
    assert match is not None
    return int(match[1])


def listening(job: RunningStarter) -> set[int]:
    """TCP ports on which processes of the job listen."""
    sockets = set()
    for pid in job.pids():
        for path in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                sockets.add(str(path.readlink()))
    found = set()
    for table in ("tcp", "tcp6"):
        for row in Path("/proc/net", table).read_text().splitlines()[1:]:
            fields = row.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                found.add(int(fields[1].rpartition(":")[2], 16))
    return found


async def raw(uid: int, port: int, request: str) -> str:
    """What a user gets for bytes sent to a loopback port."""
    code = (
        "import socket\n"
        f"s = socket.create_connection(('127.0.0.1', {port}), 20)\n"
        "try:\n"
        f"    s.sendall({request.encode()!r})\n"
        "    out = b''\n"
        "    while data := s.recv(65536):\n"
        "        out += data\n"
        "except ConnectionError:\n"
        "    pass\n"
        "print(out.decode('latin-1'), end='')\n"
    )
    status, output = await python_as(uid, code)
    assert status == 0, output
    return output


@contextlib.asynccontextmanager
async def without_tunnel(stage: Stage, job: RunningStarter) -> AsyncIterator[None]:
    """The tunnel is down inside, and up again after."""
    downs = job.log.count("tunnel down")
    await stage.gateway.close()
    await until(lambda: job.log.count("tunnel down") > downs, "the tunnel to be down")
    ups = job.log.count("tunnel up")
    try:
        yield
    finally:
        if not stage.gateway.is_open:
            await stage.gateway.open()
        await until(lambda: job.log.count("tunnel up") > ups, "the tunnel to be up")


def get(path: str, **headers: str) -> str:
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n{lines}\r\n"


async def test_T22_no_port_of_the_notebook_and_no_socket_for_others(
    stage: Stage, job: RunningStarter
) -> None:
    assert listening(job) == {relay_port(job)}
    kernel = await open_kernel(stage)
    pipe = await kernel.run("print(get_ipython().kernel.iopub_thread._pipe_port)")
    await kernel.close()
    # Not a kernel's channels either; ipykernel's own pipe takes only what knows its secret.
    assert listening(job) == {relay_port(job), int(pipe)}
    private = job.private
    assert private.stat().st_mode & 0o777 == 0o700
    for name in ("nb.sock", "hub.sock"):
        assert (private / name).stat().st_mode & 0o777 == 0o600
        code = f"import socket\nsocket.socket(socket.AF_UNIX).connect({str(private / name)!r})\n"
        assert (await python_as(ALICE, code))[0] == 0
        status, output = await python_as(BOB, code)
        assert status != 0
        assert "PermissionError" in output
    status, output = await python_as(BOB, f"import os\nos.listdir({str(private)!r})\n")
    assert "PermissionError" in output


async def test_T24_the_port_for_the_hub_is_never_free(stage: Stage, job: RunningStarter) -> None:
    port = relay_port(job)
    bind = (
        "import socket\n"
        "for option in (None, socket.SO_REUSEADDR, socket.SO_REUSEPORT):\n"
        "    for host in ('127.0.0.1', '0.0.0.0'):\n"
        "        s = socket.socket()\n"
        "        option and s.setsockopt(socket.SOL_SOCKET, option, 1)\n"
        "        try:\n"
        f"            s.bind((host, {port})); s.listen()\n"
        "            print('bound', option, host)\n"
        "        except OSError as exc:\n"
        "            assert exc.errno in (98, 13), exc\n"
    )
    assert await python_as(BOB, bind) == (0, "")
    async with without_tunnel(stage, job):
        assert await python_as(BOB, bind) == (0, "")
        assert (await raw(ALICE, port, get("/hub/api/user"))).startswith("HTTP/1.1 503 ")
        assert await raw(BOB, port, get("/hub/api/user")) == ""


async def test_T24_a_request_waits_for_the_tunnel(stage: Stage, job: RunningStarter) -> None:
    async with without_tunnel(stage, job):
        waiting = asyncio.create_task(raw(ALICE, relay_port(job), get("/hub/api/echo?late")))
        await stage.gateway.open()
        assert (await waiting).startswith("HTTP/1.1 200 ")


async def test_T25_no_secret_where_another_user_can_read(stage: Stage, job: RunningStarter) -> None:
    """Command lines, environments, files and /tmp, read as another user; T41: the job's log."""
    kernel = await open_kernel(stage)
    await kernel.run("1")
    await kernel.close()
    secrets = [TOKEN, stage.key.read_text().splitlines()[1], stage.certificate.read_text()[40:90]]
    code = (
        "import os\n"
        f"secrets = [s.encode() for s in {secrets!r}]\n"
        "def look(path):\n"
        "    try:\n"
        "        with open(path, 'rb') as file:\n"
        "            data = file.read(1 << 20)\n"
        "    except OSError:\n"
        "        return\n"
        "    for n, secret in enumerate(secrets):\n"
        "        if secret in data:\n"
        "            print(n, path)\n"
        "me = str(os.getpid())\n"
        "for pid in filter(str.isdigit, os.listdir('/proc')):\n"
        "    if pid != me:\n"
        "        for name in ('cmdline', 'environ', 'comm', 'status', 'fd/0'):\n"
        "            look(f'/proc/{pid}/{name}')\n"
        f"for top in ({str(job.folder)!r}, '/dev/shm'):\n"
        "    for folder, _, names in os.walk(top):\n"
        "        for name in names:\n"
        "            look(os.path.join(folder, name))\n"
    )
    assert await python_as(BOB, code) == (0, "")
    assert not any(secret in job.log for secret in secrets)


async def test_T25_the_notebooks_environment_holds_no_tunnel_key(
    stage: Stage, job: RunningStarter
) -> None:
    kernel = await open_kernel(stage)
    seen = await kernel.run("import os; print(dict(os.environ))")
    await kernel.close()
    assert TOKEN in seen, "JupyterHub itself puts it there"
    assert "PRIVATE KEY" not in seen
    assert "cert-v01" not in seen
    pid = job.pid_of("jupyterhub-singleuser")
    descriptors = {str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()}
    assert not any("tunnel" in target or "hub.sock" in target for target in descriptors)


async def test_T26_another_user_is_cut_and_the_owner_served(
    stage: Stage, job: RunningStarter
) -> None:
    port = relay_port(job)
    request = get("/hub/api/echo?x", Authorization=f"token {TOKEN}")
    assert (await raw(ALICE, port, request)).startswith("HTTP/1.1 200 ")
    before = list(stage.hub.requests)
    assert await raw(BOB, port, request) == ""
    assert stage.hub.requests == before


@pytest.mark.parametrize(
    "request_line",
    [
        "GET /hub/home HTTP/1.1",
        "GET /hub/api/../home HTTP/1.1",
        "GET /hub/api/%2e%2e/home HTTP/1.1",
        "GET //hub/home HTTP/1.1",
        "GET //hub/api/ HTTP/1.1",
        "GET http://127.0.0.1/hub/home HTTP/1.1",
        "CONNECT hub:8081 HTTP/1.1",
        "GET /hub/home",
        "TRACE /hub/api/ HTTP/1.1",
        "GET /hub/api/ HTTP/2.0",
        "GET /hub/api/ x HTTP/1.1",
    ],
)
async def test_T26_only_the_hubs_api_passes(
    stage: Stage, bare_relay: int, request_line: str
) -> None:
    stage.hub.requests.clear()
    answer = await raw(ALICE, bare_relay, f"{request_line}\r\nHost: x\r\n\r\n")
    assert re.search(r"Error code: (403|400|501|505)|^HTTP/1.1 (403|400|501|505) ", answer), answer
    assert stage.hub.requests == []


async def test_requests_and_answers_pass_whole(bare_relay: int) -> None:
    code = f"""
import http.client, json
def ask(method, path, body=None, **headers):
    c = http.client.HTTPConnection("127.0.0.1", {bare_relay}, timeout=20)
    c.request(method, path, body, headers)
    r = c.getresponse()
    return r.status, r.read(), r.headers
query = "a=%2F..%2F&b=/../"
s, b, h = ask("POST", "/hub/api/echo?" + query, b"x" * 3_000_000, **{{"X-Mine": "1"}})
told = json.loads(b)
assert (s, told["method"], told["length"], told["query"]) == (200, "POST", 3_000_000, query), told
assert told["headers"]["X-Mine"] == "1" and told["headers"]["Host"] == "hub:8081", told
assert h["Connection"] == "close"
for method in ("PUT", "PATCH", "DELETE", "OPTIONS"):
    s, b, h = ask(method, "/hub/api/echo")
    assert s == 200 and json.loads(b)["method"] == method
s, b, h = ask("HEAD", "/hub/api/stream")
assert (s, b) == (200, b"")
s, b, h = ask("GET", "/hub/api/stream")
assert (s, len(b)) == (200, 64 * 4096), (s, len(b))
s, b, h = ask("GET", "/hub/api/nothing")
assert s == 404
try:
    ask("GET", "/hub/api/stream?cut")
except http.client.IncompleteRead:
    print("cut is seen")
"""
    assert await python_as(ALICE, code) == (0, "cut is seen\n")


async def test_requests_cannot_be_smuggled(stage: Stage, bare_relay: int) -> None:
    second = "GET /hub/home HTTP/1.1\r\nHost: x\r\n\r\n"
    post = "POST /hub/api/echo HTTP/1.1\r\nHost: x\r\n"
    for request, status in (
        (get("/hub/api/echo") + second, 200),
        (post + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + second, 411),
        (post + "Content-Length: 0\r\nContent-Length: 9\r\n\r\n" + second, 400),
        (post + "Content-Length: -1\r\n\r\n" + second, 400),
        (post + "Content-Length: +5\r\n\r\n" + second, 400),
    ):
        answer = await raw(ALICE, bare_relay, request)
        assert answer.startswith(f"HTTP/1.1 {status} "), answer
        assert answer.count("HTTP/1.1 ") == 1
    assert not any("/hub/home" in request for request in stage.hub.requests)
