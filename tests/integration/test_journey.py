"""A researcher's way from a request to a cell that runs in their job, on real parts.

Every test runs with the hub that Zero to JupyterHub 4.4.0 carries and with the next one.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.lab.notebook import Notebook
from tests.lab.stack import Stack
from tests.lab.waiting import wait_for

pytestmark = [
    pytest.mark.integration,
    pytest.mark.parametrize("stack", ["5.5", "6.1"], indirect=True),
    pytest.mark.usefixtures("tidy_servers"),
]

SHARED = {"profile": "shared", "cores": 2, "walltime": "01:00:00"}
ALICE_UID = 10001
WHO = "import os, getpass; print(getpass.getuser(), os.environ['SLURM_JOB_ID'])"


async def start(stack: Stack, user: str, options: dict[str, object] | None = None) -> str:
    """Start a server, wait for it and return its Slurm job's id."""
    answer = await stack.hub.start_server(user, options or SHARED)
    assert answer.status in {201, 202}, answer
    await stack.hub.wait_ready(user)
    (job,) = stack.slurm.queue(user)
    return str(job["job_id"])


async def ask(stack: Stack, user: str, code: str) -> str:
    """Run code in a new kernel of the user's server, through the proxy."""
    async with Notebook(stack.hub, user, await stack.hub.user_token(user)) as notebook:
        kernel = await notebook.start_kernel()
        return await kernel.run(code)


async def test_cell_runs_in_the_users_own_job(stack: Stack) -> None:
    job_id = await start(stack, "alice")
    (job,) = stack.slurm.queue("alice")
    assert (job["partition"], job["cpus"], job["limit"]) == ("shared", "2", "1:00:00")
    assert await ask(stack, "alice", WHO) == f"alice {job_id}"

    answer = await stack.hub.stop_server("alice")
    assert answer.status in {202, 204}
    stack.slurm.wait_state(job_id, "CANCELLED")
    wait_for(
        lambda: stack.slurm.accounting(job_id).get("state", "").startswith("CANCELLED"),
        "sacct to say CANCELLED",
        limit_s=15,
    )
    assert stack.slurm.accounting(job_id)["user"] == "alice"


async def test_two_people_on_one_node_see_only_their_own(stack: Stack) -> None:
    jobs = {user: await start(stack, user) for user in ("alice", "bob")}
    nodes = {stack.slurm.job(job_id)["NodeList"] for job_id in jobs.values()}
    assert len(nodes) == 1
    for user, job_id in jobs.items():
        assert await ask(stack, user, WHO) == f"{user} {job_id}"
    bobs_token = await stack.hub.user_token("bob")
    foreign = await stack.hub.api("GET", "/users/alice", token=bobs_token)
    assert foreign.status in {403, 404}


@pytest.mark.parametrize("killed", ["hub", "tunnelbot", "hub and tunnelbot"])
async def test_kernel_outlives(stack: Stack, killed: str) -> None:
    job_id = await start(stack, "alice")
    token = await stack.hub.user_token("alice")
    async with Notebook(stack.hub, "alice", token) as notebook:
        kernel = await notebook.start_kernel()
        await kernel.run("answer = 42")
        kernel_id = kernel.id
    parts = [part for part in (stack.tunnelbot, stack.hub) if type(part).__name__.lower() in killed]
    assert len(parts) == len(killed.split(" and "))
    for part in parts:
        part.kill()
    for part in reversed(parts):
        # The hub first: it must not mistake the silence for an end (F16).
        await asyncio.to_thread(part.start)
    await stack.hub.wait_ready("alice")
    async with Notebook(stack.hub, "alice", token) as notebook:
        assert await notebook.kernel(kernel_id).run("print(answer)") == "42"
    assert stack.slurm.job(job_id)["JobState"] == "RUNNING"


async def test_queued_job_outlives_the_hub_and_then_starts(stack: Stack) -> None:
    with stack.slurm.full_partition("compute"):
        await stack.hub.start_server("alice", {"profile": "compute", "walltime": "01:00:00"})
        (job,) = await until_queued(stack, "alice")
        stack.hub.kill()
        await asyncio.to_thread(stack.hub.start)
        server = await stack.hub.server("alice")
        assert server["pending"] == "spawn"
        assert stack.slurm.job(job["job_id"])["JobState"] == "PENDING"
        message = await first_message(stack, "alice")
        assert job["job_id"] in message
    await stack.hub.wait_ready("alice")
    assert await ask(stack, "alice", WHO) == f"alice {job['job_id']}"


async def test_queued_job_is_cancelled_after_the_hubs_restart(stack: Stack) -> None:
    with stack.slurm.full_partition("compute"):
        await stack.hub.start_server("alice", {"profile": "compute", "walltime": "01:00:00"})
        (job,) = await until_queued(stack, "alice")
        await asyncio.to_thread(stack.hub.restart)
        answer = await stack.hub.stop_server("alice")
        assert answer.status in {202, 204}
        stack.slurm.wait_state(job["job_id"], "CANCELLED")
        await stack.hub.wait_stopped("alice")


async def test_T42_nobody_is_answered_by_anothers_notebook(stack: Stack) -> None:
    await start(stack, "alice")
    await start(stack, "bob")
    stack.tunnelbot.kill()
    await asyncio.to_thread(stack.tunnelbot.start)
    # Whichever tunnel is back first: each path leads to its own notebook or to none.
    for user in ("bob", "alice"):
        await wait_answer(stack, user)
        assert (await ask(stack, user, WHO)).split()[0] == user


async def test_T22_nothing_of_a_notebook_listens_but_the_relay(stack: Stack) -> None:
    await start(stack, "alice")
    printed = await ask(stack, "alice", "import os; print(os.environ['JUPYTERHUB_SERVICE_URL'])")
    assert printed.startswith("http+unix://")
    # The relay to the hub's API, and ipykernel's pipe for the output of child processes, which
    # takes only what knows its secret. A kernel runs too, but its channels are no TCP ports.
    assert len(listening_ports(ALICE_UID)) <= 2
    socket = Path(unquote(printed.removeprefix("http+unix://")).split(".sock")[0] + ".sock")
    assert socket.is_socket()
    for path in (socket, socket.parent):
        assert path.stat().st_uid == ALICE_UID
        assert path.stat().st_mode & 0o077 == 0, path


async def test_a_users_token_changes_nothing_on_a_spawner(stack: Stack) -> None:
    await start(stack, "alice")
    token = await stack.hub.user_token("alice")
    server_token = await ask(stack, "alice", "import os; print(os.environ['JUPYTERHUB_API_TOKEN'])")
    before = await stack.hub.server("alice")
    for held in (token, server_token):
        answer = await stack.hub.api(
            "POST", "/batchspawner", json={"port": 1, "job_id": "1"}, token=held
        )
        assert answer.status == 404
    after = await stack.hub.server("alice")
    assert after["url"] == before["url"]
    assert await ask(stack, "alice", "print(6 * 7)") == "42"


async def test_T20_token_dies_with_its_server_even_over_a_restart(stack: Stack) -> None:
    await start(stack, "alice")
    token = await ask(stack, "alice", "import os; print(os.environ['JUPYTERHUB_API_TOKEN'])")
    assert (await stack.hub.api("GET", "/user", token=token)).status == 200
    await asyncio.to_thread(stack.hub.restart)
    assert (await stack.hub.api("GET", "/user", token=token)).status == 200
    await stack.hub.stop_server("alice")
    await stack.hub.wait_stopped("alice")
    assert (await stack.hub.api("GET", "/user", token=token)).status == 403


async def test_T29_only_tunnelbot_may_report(stack: Stack) -> None:
    await start(stack, "alice")
    report = {"address": "127.0.0.1", "full": True, "tunnels": [], "gone": []}
    tokens = [
        await stack.hub.user_token("alice"),
        stack.hub.admin_token,
        await ask(stack, "alice", "import os; print(os.environ['JUPYTERHUB_API_TOKEN'])"),
    ]
    for token in tokens:
        for method, path in [
            ("POST", "/comet/tunnels"),
            ("GET", "/comet/spawns"),
            ("GET", "/comet/spawns/t-aaaaaaaaaaaaaaaaaaaaaaaaaa"),
        ]:
            answer = await stack.hub.api(method, path, json=report, token=token)
            assert answer.status == 403, (method, path)
    elsewhere = await stack.hub.api(
        "POST",
        "/comet/tunnels",
        json={**report, "address": "192.0.2.1"},
        token=stack.hub.tunnelbot_token,
    )
    assert elsewhere.status == 403


async def wait_answer(stack: Stack, user: str) -> None:
    """Until the user's notebook answers again; nobody else's may meanwhile (T42)."""
    async with (
        asyncio.timeout(60),
        Notebook(stack.hub, user, await stack.hub.user_token(user)) as notebook,
    ):
        while (await notebook.get("api/status"))[0] != 200:
            await asyncio.sleep(0.2)


async def until_queued(stack: Stack, user: str) -> list[dict[str, str]]:
    """The user's jobs in the queue, once there is one."""
    async with asyncio.timeout(30):
        while not (jobs := stack.slurm.queue(user)):
            await asyncio.sleep(0.2)
    return jobs


async def first_message(stack: Stack, user: str) -> str:
    """The first line of the pending page that names a job."""
    async with asyncio.timeout(30):
        async for event in stack.hub.progress(user):
            if "Job " in event["message"]:
                return str(event["message"])
    raise AssertionError("the progress stream ended without naming the job")


def listening_ports(uid: int) -> list[int]:
    """TCP ports that a user listens on, on this machine."""
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            columns = line.split()
            if columns[3] == "0A" and int(columns[7]) == uid:
                found.append(int(columns[1].rpartition(":")[2], 16))
    return found
