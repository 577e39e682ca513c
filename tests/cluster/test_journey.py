"""The researcher's way through the chart: LoadBalancer, hub, Slurm job, tunnel, notebook."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import pytest

from tests.lab.hub_api import HubAPI
from tests.lab.notebook import Notebook

from . import site as installed

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("tidy")]

SHARED = {"profile": "shared", "cores": 2, "walltime": "01:00:00"}
WHO = "import os, getpass; print(getpass.getuser(), os.environ['SLURM_JOB_ID'])"


async def start(site: HubAPI, user: str, options: dict[str, object] | None = None) -> str:
    """Start a server, wait for it and return its job's id."""
    answer = await site.start_server(user, options or SHARED)
    assert answer.status in {201, 202}, answer
    await site.wait_ready(user)
    (job,) = installed.queue(user)
    return job["job_id"]


async def ask(site: HubAPI, user: str, code: str) -> str:
    """Run code in a new kernel of the user's server."""
    async with Notebook(site, user, await site.user_token(user)) as notebook:
        kernel = await notebook.start_kernel()
        return await kernel.run(code)


@pytest.mark.parametrize(
    ("options", "partition", "cpus", "gpus"),
    [
        ({"profile": "compute", "walltime": "02:00:00"}, "compute", "24", ""),
        ({"profile": "shared", "cores": 6, "walltime": "01:00:00"}, "shared", "6", ""),
        ({"profile": "gpu", "gpus": 4, "walltime": "24:00:00"}, "gpu", "24", "gpu:4"),
        ({"profile": "gpu-shared", "gpus": 2, "walltime": "05:00:00"}, "gpu-shared", "1", "gpu:2"),
    ],
    ids=lambda value: value["profile"] if isinstance(value, dict) else None,
)
async def test_job_is_what_was_chosen(
    site: HubAPI, options: dict[str, object], partition: str, cpus: str, gpus: str
) -> None:
    job_id = await start(site, "alice", options)
    (job,) = installed.queue("alice")
    assert (job["user"], job["partition"], job["cpus"]) == ("alice", partition, cpus)
    hours, _, rest = str(options["walltime"]).lstrip("0").partition(":")
    limit = f"{hours}:{rest}" if hours != "24" else "1-00:00:00"
    assert job["limit"] == limit
    if gpus:
        assert gpus in installed.slurm("scontrol", "show", "job", job_id).replace("gres/", "")
    assert await ask(site, "alice", WHO) == f"alice {job_id}"
    await site.stop_server("alice")
    installed.wait_for("accounting", lambda: installed.job_state(job_id).startswith("CANCELLED"))


async def test_bob_on_the_same_node_sees_nothing_of_alices(site: HubAPI) -> None:
    await start(site, "alice")
    await start(site, "bob")
    assert len({job["nodes"] for user in ("alice", "bob") for job in installed.queue(user)}) == 1
    socket = await ask(
        site, "alice", "import os; print(os.environ['JUPYTERHUB_SERVICE_URL'].split('://')[1])"
    )
    spy = f"""
import os, socket, subprocess, urllib.parse
path = urllib.parse.unquote({socket!r})
found = {{}}
try:
    socket.socket(socket.AF_UNIX).connect(path.split('.sock')[0] + '.sock')
    found['socket'] = 'reached'
except OSError as exc:
    found['socket'] = type(exc).__name__
mine, theirs = os.getuid(), []
for line in list(open('/proc/net/tcp'))[1:]:
    column = line.split()
    if column[3] == '0A' and int(column[7]) == {10001}:
        theirs.append(int(column[1].split(':')[1], 16))
import urllib.request, urllib.error
for port in theirs:
    try:
        url = f'http://127.0.0.1:{{port}}/hub/api/'
        found[port] = urllib.request.urlopen(url, timeout=5).status
    except (OSError, ValueError) as exc:
        found[port] = 'cut'
    except Exception as exc:
        found[port] = 'cut'
found['environ'] = [p for p in os.listdir('/proc') if p.isdigit()
    and os.stat('/proc/' + p).st_uid == 10001 and os.access(f'/proc/{{p}}/environ', os.R_OK)]
found['argv'] = any('PRIVATE KEY' in a or 'token' in a.lower() for a in subprocess.run(
    ['ps', '-eo', 'args'], capture_output=True, text=True).stdout.splitlines())
import json; print(json.dumps(found))
"""
    found = json.loads(await ask(site, "bob", spy))
    assert found.pop("socket") in {"PermissionError", "FileNotFoundError"}
    assert found.pop("environ") == []
    assert found.pop("argv") is False
    # alice's relay to the hub's API listens on loopback, and cuts other people's connections.
    assert set(found.values()) <= {"cut"}


@pytest.mark.parametrize(
    "deleted",
    [(installed.HUB,), (installed.TUNNELBOT,), (installed.HUB, installed.TUNNELBOT)],
    ids=["hub", "tunnelbot", "hub and tunnelbot"],
)
async def test_kernel_outlives_pods(site: HubAPI, deleted: tuple[str, ...]) -> None:
    job_id = await start(site, "alice")
    token = await site.user_token("alice")
    async with Notebook(site, "alice", token) as notebook:
        kernel = await notebook.start_kernel()
        await kernel.run("answer = 42")
        url_before = (await site.server("alice"))["url"]
        kernel_id = kernel.id
    await asyncio.to_thread(installed.delete_pods, *deleted)
    await installed.wait_hub_up(site.base_url)
    server = await site.wait_ready("alice")
    assert server["url"] == url_before
    async with Notebook(site, "alice", token) as notebook:
        await wait_answer(notebook)
        assert await notebook.kernel(kernel_id).run("print(answer)") == "42"
    assert installed.queue("alice")[0]["job_id"] == job_id
    assert installed.queue("alice")[0]["state"] == "RUNNING"


async def test_queued_job_outlives_the_hub(site: HubAPI) -> None:
    blocker = installed.slurm(
        "sbatch", "--parsable", "--uid=bob", "--gid=bob", "--chdir=/tmp", "-p", "compute",
        "--exclusive", "-N", "2", "--wrap", "sleep 600",
    ).strip()  # fmt: skip
    await site.start_server("alice", {"profile": "compute", "walltime": "01:00:00"})
    installed.wait_for("alice's job", lambda: bool(installed.queue("alice")))
    (job,) = installed.queue("alice")
    assert job["state"] == "PENDING"
    await asyncio.to_thread(installed.delete_pods, installed.HUB)
    await installed.wait_hub_up(site.base_url)
    assert (await site.server("alice"))["pending"] == "spawn"
    assert installed.queue("alice") == [job]
    installed.slurm("scancel", blocker)
    await site.wait_ready("alice")
    assert await ask(site, "alice", WHO) == f"alice {job['job_id']}"


async def test_T42_two_people_and_a_new_gateway(site: HubAPI) -> None:
    for user in ("alice", "bob"):
        await start(site, user)
    await asyncio.to_thread(installed.delete_pods, installed.TUNNELBOT)
    for user in ("bob", "alice"):
        async with Notebook(site, user, await site.user_token(user)) as notebook:
            await wait_answer(notebook)
        assert (await ask(site, user, WHO)).split()[0] == user


async def wait_answer(notebook: Notebook, limit_s: float = 90) -> None:
    """Until the notebook answers through the proxy again.

    Asked anew every few seconds, as JupyterLab does: a request that the proxy sent to a pod
    that has just gone is answered by nobody.
    """
    async with asyncio.timeout(limit_s):
        while not await answers(notebook):
            await asyncio.sleep(0.5)


async def answers(notebook: Notebook) -> bool:
    """Whether one request is answered by the notebook within a few seconds."""
    try:
        async with asyncio.timeout(5):
            return (await notebook.get("api/status"))[0] == 200
    except (TimeoutError, aiohttp.ClientError):
        return False
