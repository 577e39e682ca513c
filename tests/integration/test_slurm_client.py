"""The client and the transport against a real Slurm behind a real sshd."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from jupyterhub_comet.errors import (
    ClusterUnreachable,
    OutputUnreadable,
    ReplyLost,
    SubmitRefused,
)
from jupyterhub_comet.settings import LoginSettings
from jupyterhub_comet.slurm.client import SlurmClient
from jupyterhub_comet.slurm.state import JobState, Phase
from jupyterhub_comet.ssh.principal import new_spawn_id
from jupyterhub_comet.transport.ssh import SSHTransport
from tests.lab.login import LoginNode
from tests.lab.slurm import Slurm

pytestmark = pytest.mark.integration

SLEEPER = "#!/bin/sh\nsleep 600\n"
TIMEOUT_S = 6.0


@pytest.fixture(autouse=True)
def no_jobs_left(slurm: Slurm) -> object:
    yield
    slurm.cancel_all("alice", "bob")


@pytest.fixture
async def transport(login: LoginNode) -> AsyncIterator[SSHTransport]:
    settings = LoginSettings(hosts=[login.host], known_hosts=login.known_hosts)
    transport = SSHTransport(settings, login.ca.folder / "ca")
    yield transport
    await transport.close()


@pytest.fixture
def client(transport: SSHTransport, login: LoginNode) -> SlurmClient:
    return SlurmClient(transport, slurm_path=str(login.slurm_path), timeout_s=TIMEOUT_S)


def wanted(spawn: str, *more: str) -> list[str]:
    return [
        "--parsable", "--export=NONE", "--no-requeue", "--job-name=jupyterhub",
        f"--comment={spawn}", "--output=/dev/null", "--time=0-00:10:00",
        "--partition=shared", *more,
    ]  # fmt: skip


async def submit(client: SlurmClient, account: str = "alice", *more: str) -> tuple[str, str]:
    spawn = new_spawn_id()
    job = await client.submit(
        account, wanted(spawn, *more), SLEEPER, spawn=spawn, since=datetime.now(UTC)
    )
    return job, spawn


async def test_job_runs_as_its_user_and_is_listed(client: SlurmClient, slurm: Slurm) -> None:
    job, _ = await submit(client)
    assert slurm.job(job)["UserId"].startswith("alice(")
    slurm.wait_state(job, "RUNNING")
    (record,) = [found for found in await client.list_jobs("jhquery") if found.job_id == job]
    assert (record.user, record.state, record.partition) == ("alice", JobState.RUNNING, "shared")
    assert record.nodes.startswith("comet-14-")
    assert record.submit_time is not None
    assert abs(record.submit_time - datetime.now(UTC)).total_seconds() < 60
    assert record.time_left_s is not None
    assert 0 < record.time_left_s <= 600


async def test_cancel_ends_the_job_and_is_repeatable(client: SlurmClient, slurm: Slurm) -> None:
    job, _ = await submit(client)
    await client.cancel("alice", job)
    slurm.wait_state(job, "CANCELLED")
    await client.cancel("alice", job)
    record = await client.ask_job("alice", job)
    assert record is not None
    assert record.phase is Phase.ENDED


async def test_cancel_of_a_job_that_never_was_is_success(client: SlurmClient) -> None:
    await client.cancel("alice", "999999")


async def test_others_jobs_cannot_be_cancelled(client: SlurmClient, slurm: Slurm) -> None:
    job, _ = await submit(client, "bob")
    with pytest.raises(OutputUnreadable, match="denied"):
        await client.cancel("alice", job)
    assert slurm.job(job)["JobState"] in {"PENDING", "RUNNING"}


async def test_unknown_job_leaves_no_trace(client: SlurmClient) -> None:
    assert await client.ask_job("alice", "999999") is None


async def test_job_that_slurmctld_forgot_is_found_in_accounting(
    client: SlurmClient, slurm: Slurm
) -> None:
    with slurm.settings(MinJobAge="2"):
        spawn = new_spawn_id()
        job = await client.submit(
            "alice", wanted(spawn), "#!/bin/sh\nexit 3\n", spawn=spawn, since=datetime.now(UTC)
        )
        async with asyncio.timeout(60):
            while slurm.job(job):
                await asyncio.sleep(0.5)
        record = await client.ask_job("alice", job)
    assert record is not None
    assert (record.state, record.exit_code, record.user) == (JobState.FAILED, "3:0", "alice")


REFUSALS = [
    (("--partition=nope",), "[Ii]nvalid partition"),
    (("--account=nobody9",), "[Ii]nvalid account.*nobody9"),
    (("--qos=nope",), "[Ii]nvalid qos"),
    (("--gres=gpu:v100:1",), "node configuration is not available"),
    (("--reservation=nope",), "reservation is invalid"),
    (("--frobnicate",), "unrecognized option"),
]


@pytest.mark.parametrize(("more", "sentence"), REFUSALS, ids=lambda value: str(value))
async def test_refusal_has_slurms_own_sentence(
    client: SlurmClient, more: tuple[str, ...], sentence: str
) -> None:
    with pytest.raises(SubmitRefused, match=sentence):
        await submit(client, "alice", *more)


async def test_F25_lost_reply_makes_one_job_and_finds_it(
    client: SlurmClient, login: LoginNode, slurm: Slurm
) -> None:
    with login.shims.fault("sbatch", "lost"):
        job, _ = await submit(client)
    (row,) = slurm.queue("alice")
    assert row["job_id"] == job
    assert len([call for call in login.shims.calls("sbatch") if call.user == "alice"]) >= 1


async def test_F25_silent_sbatch_that_took_nothing_says_that_a_job_may_exist(
    client: SlurmClient, login: LoginNode, slurm: Slurm
) -> None:
    with login.shims.fault("sbatch", "empty"), pytest.raises(ReplyLost):
        await submit(client)
    assert slurm.queue("alice") == []


async def test_F25_hanging_sbatch_is_stopped_on_the_login_node(
    client: SlurmClient, login: LoginNode
) -> None:
    with login.shims.fault("sbatch", "hang"), pytest.raises(ReplyLost, match="longer than 6 s"):
        await submit(client)
    listing = login.run("alice", "ps -u alice -o args= | grep -c '[s]leep 3600'")
    assert listing.stdout.strip() == "0"


async def test_T43_second_job_with_the_id_is_reported_not_adopted(
    client: SlurmClient, login: LoginNode, slurm: Slurm
) -> None:
    job, spawn = await submit(client)
    other, _ = await submit(client)
    foreign, _ = await submit(client, "bob")
    for user, changed in (("alice", other), ("bob", foreign)):
        done = login.run(user, f"scontrol update job={changed} comment={spawn}")
        assert done.returncode == 0, done.stderr
    found = await client.find_by_spawn("alice", spawn, datetime.now(UTC))
    assert {record.job_id for record in found} == {job, other}
    found = await client.find_by_spawn("bob", spawn, datetime.now(UTC))
    assert {record.job_id for record in found} == {foreign}


async def test_T43_comment_cannot_make_or_change_a_record(
    client: SlurmClient, login: LoginNode
) -> None:
    job, spawn = await submit(client)
    foreign, _ = await submit(client, "bob")
    forged = f"x\n{job}\x1falice\x1fCANCELLED\x1f\x1f\x1f\x1f\x1f\x1f\x1f\x1f\n"
    done = login.run("bob", f"scontrol update job={foreign} comment='{forged}'")
    assert done.returncode == 0, done.stderr
    by_id = {record.job_id: record for record in await client.list_jobs("jhquery")}
    assert by_id[job].state in {JobState.PENDING, JobState.RUNNING}
    assert by_id[foreign].user == "bob"
    found = await client.find_by_spawn("alice", spawn, datetime.now(UTC))
    assert [record.job_id for record in found] == [job]


@pytest.mark.parametrize("kind", ["fail", "hang"])
async def test_F24_squeue_that_gives_no_answer_is_unreachable(
    client: SlurmClient, login: LoginNode, kind: str
) -> None:
    with login.shims.fault("squeue", kind), pytest.raises(ClusterUnreachable):  # type: ignore[arg-type]
        await client.list_jobs("jhquery")


@pytest.mark.parametrize("kind", ["garbage", "empty"])
async def test_F24_squeue_that_gives_no_list_is_unreadable(
    client: SlurmClient, login: LoginNode, kind: str
) -> None:
    with login.shims.fault("squeue", kind), pytest.raises(OutputUnreadable):  # type: ignore[arg-type]
        await client.list_jobs("jhquery")
    assert isinstance(await client.list_jobs("jhquery"), list)


async def test_F23_silent_slurmctld_is_unreachable_for_every_command(
    client: SlurmClient, slurm: Slurm
) -> None:
    slurm.slurmctld.stop()
    try:
        with pytest.raises(ClusterUnreachable):
            await client.list_jobs("jhquery")
        with pytest.raises(ClusterUnreachable):
            await submit(client)
        with pytest.raises(ClusterUnreachable):
            await client.cancel("alice", "1")
        with pytest.raises(ClusterUnreachable):
            await client.ask_job("alice", "1")
    finally:
        slurm.slurmctld.start()
        slurm.wait_idle(limit_s=30)
