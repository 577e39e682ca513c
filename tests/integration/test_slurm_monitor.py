"""The monitor against a real Slurm that falls silent, hides jobs and forgets them."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime

import pytest

from jupyterhub_comet.settings import LoginSettings
from jupyterhub_comet.slurm.client import SlurmClient
from jupyterhub_comet.slurm.monitor import JobKey, Monitor, Verdict
from jupyterhub_comet.slurm.state import Phase
from jupyterhub_comet.ssh.principal import new_spawn_id
from jupyterhub_comet.transport.ssh import SSHTransport
from tests.lab.login import LoginNode
from tests.lab.slurm import Slurm

pytestmark = pytest.mark.integration

INTERVAL_S = 0.5
GRACE_S = 2.0


@pytest.fixture(autouse=True)
def no_jobs_left(slurm: Slurm) -> Iterator[None]:
    yield
    slurm.cancel_all("alice", "bob")


@pytest.fixture
async def client(login: LoginNode) -> AsyncIterator[SlurmClient]:
    settings = LoginSettings(hosts=[login.host], known_hosts=login.known_hosts)
    transport = SSHTransport(settings, login.ca.folder / "ca")
    yield SlurmClient(transport, slurm_path=str(login.slurm_path), timeout_s=3)
    await transport.close()


@pytest.fixture
async def monitor(client: SlurmClient) -> AsyncIterator[Monitor]:
    monitor = Monitor(
        client,
        cluster="comet",
        query_account="jhquery",
        interval_s=INTERVAL_S,
        grace_s=GRACE_S,
    )
    monitor.start()
    yield monitor
    await monitor.close()


async def submit(client: SlurmClient, *more: str, user: str = "alice") -> JobKey:
    spawn = new_spawn_id()
    argv = ["--parsable", f"--comment={spawn}", "--output=/dev/null", "--partition=shared", *more]
    job = await client.submit(
        user, argv, "#!/bin/sh\nsleep 600\n", spawn=spawn, since=datetime.now(UTC)
    )
    return JobKey("comet", job, user)


async def reach(monitor: Monitor, key: JobKey, phase: Phase, limit_s: float = 60) -> Verdict:
    async with asyncio.timeout(limit_s):
        while (verdict := monitor.verdict(key)).phase is not phase:
            await monitor.wait_for_change(key, 5)
    return verdict


async def test_life_of_a_job(client: SlurmClient, monitor: Monitor, slurm: Slurm) -> None:
    key = await submit(client, "--hold")
    waiting = await reach(monitor, key, Phase.WAITING)
    assert waiting.reason == "JobHeldUser"
    slurm.run(["scontrol", "release", key.job_id])
    running = await reach(monitor, key, Phase.RUNNING)
    assert running.record is not None
    assert running.record.nodes.startswith("comet-14-")
    await client.cancel("alice", key.job_id)
    ended = await reach(monitor, key, Phase.ENDED)
    assert (ended.reason, ended.no_trace) == ("it was cancelled (CANCELLED)", False)


async def test_F23_slurmctld_away_is_unknown_until_it_is_back(
    client: SlurmClient, monitor: Monitor, slurm: Slurm
) -> None:
    key = await submit(client)
    await reach(monitor, key, Phase.RUNNING)
    slurm.slurmctld.stop()
    try:
        unknown = await reach(monitor, key, Phase.UNKNOWN)
        assert unknown.record is not None
        assert "last answer" in unknown.reason
        await asyncio.sleep(2 * GRACE_S)
        assert monitor.verdict(key).phase is Phase.UNKNOWN
    finally:
        slurm.slurmctld.start()
        slurm.wait_idle(limit_s=60)
    await reach(monitor, key, Phase.RUNNING)


async def test_F24_frozen_slurmctld_is_unknown(
    client: SlurmClient, monitor: Monitor, slurm: Slurm
) -> None:
    key = await submit(client)
    await reach(monitor, key, Phase.RUNNING)
    slurm.slurmctld.signal(signal.SIGSTOP)
    try:
        await reach(monitor, key, Phase.UNKNOWN)
    finally:
        slurm.slurmctld.signal(signal.SIGCONT)
    await reach(monitor, key, Phase.RUNNING)


@pytest.mark.parametrize("kind", ["fail", "hang", "garbage", "empty"])
async def test_F24_bad_squeue_never_ends_a_job(
    client: SlurmClient, monitor: Monitor, login: LoginNode, kind: str
) -> None:
    key = await submit(client)
    await reach(monitor, key, Phase.RUNNING)
    with login.shims.fault("squeue", kind):  # type: ignore[arg-type]
        await reach(monitor, key, Phase.UNKNOWN)
        await asyncio.sleep(2 * GRACE_S)
        assert monitor.verdict(key).phase is Phase.UNKNOWN
    await reach(monitor, key, Phase.RUNNING)


async def test_private_data_hides_no_job_from_its_owner(
    client: SlurmClient, monitor: Monitor, slurm: Slurm
) -> None:
    with slurm.settings(PrivateData="jobs"):
        key = await submit(client)
        slurm.wait_state(key.job_id, "RUNNING")
        assert key.job_id not in {job.job_id for job in await client.list_jobs("jhquery")}
        await reach(monitor, key, Phase.RUNNING)
        await asyncio.sleep(2 * GRACE_S)
        assert monitor.verdict(key).phase is Phase.RUNNING


async def test_job_that_never_was_is_no_trace_after_the_grace_time(monitor: Monitor) -> None:
    key = JobKey("comet", "999999", "alice")
    began = asyncio.get_running_loop().time()
    verdict = await reach(monitor, key, Phase.ENDED)
    assert verdict.no_trace
    assert asyncio.get_running_loop().time() - began >= GRACE_S


async def test_T43_owner_changes_what_they_like_and_nothing_changes_for_others(
    client: SlurmClient, monitor: Monitor, login: LoginNode
) -> None:
    mine, theirs = await submit(client), await submit(client, user="bob")
    await reach(monitor, mine, Phase.RUNNING)
    await reach(monitor, theirs, Phase.RUNNING)
    forged = f"x\n{mine.job_id}\x1falice\x1fCANCELLED\n"
    done = login.run(
        "bob", f"scontrol update job={theirs.job_id} comment='{forged}' name='{forged}'"
    )
    assert done.returncode == 0, done.stderr
    await client.cancel("bob", theirs.job_id)
    await reach(monitor, theirs, Phase.ENDED)
    await monitor.refresh(0)
    assert monitor.verdict(mine).phase is Phase.RUNNING


async def test_twenty_jobs_cost_one_squeue_an_interval(
    client: SlurmClient, monitor: Monitor, login: LoginNode
) -> None:
    keys = [await submit(client, "--hold", "--mem=1") for _ in range(20)]
    for key in keys:
        await reach(monitor, key, Phase.WAITING)
    before = len(login.shims.calls("squeue"))
    loop = asyncio.get_running_loop()
    began = loop.time()
    while loop.time() - began < 6 * INTERVAL_S:
        await asyncio.gather(*(monitor.refresh(INTERVAL_S) for _ in keys))
        assert all(monitor.verdict(key).phase is Phase.WAITING for key in keys)
        await asyncio.sleep(0.05)
    assert len(login.shims.calls("squeue")) - before <= 2 * 6 + 1
