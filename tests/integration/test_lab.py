"""The lab itself: what the other integration tests stand on."""

from __future__ import annotations

import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from tests.lab.environments import HUB_VERSIONS, Say, node_environment
from tests.lab.folder import Lab, end_stale_labs
from tests.lab.hub_api import HubAPI
from tests.lab.login import LoginNode
from tests.lab.notebook import CellFailed, Notebook
from tests.lab.ports import free_port
from tests.lab.probe import answers
from tests.lab.processes import Identity, Process
from tests.lab.shims import Fault
from tests.lab.slurm import Slurm
from tests.lab.slurm_config import NODES, PARTITIONS
from tests.lab.sockets import listening_ports
from tests.lab.stack import Stack
from tests.lab.users import ensure_users
from tests.lab.waiting import wait_for

pytestmark = pytest.mark.integration

SCRIPT = (
    "#!/bin/bash\nid -un; echo $SLURMD_NODENAME $SLURM_JOB_ID $CUDA_VISIBLE_DEVICES\nsleep 60\n"
)


def submit(login: LoginNode, user: str, options: str = "", script: str = SCRIPT) -> str:
    """Submit as ``user`` through the login node; the job's id."""
    done = login.run(user, f"sbatch --parsable --time=10 {options}", stdin=script)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(autouse=True)
def _no_jobs_left(slurm: Slurm) -> object:
    yield
    slurm.cancel_all("alice", "bob")


@pytest.fixture
def job_folder(lab: Lab) -> Path:
    """A folder in which every user may write."""
    return lab.folder("jobs", 0o1777)


@pytest.mark.parametrize("partition", PARTITIONS)
def test_a_job_runs_as_its_user_on_each_partition(
    login: LoginNode, slurm: Slurm, partition: str, job_folder: Path
) -> None:
    output = job_folder / f"{partition}.out"
    job = submit(login, "alice", f"-p {partition} --gres=gpu:2 -c 3 -o {output} -A TG-DEMO01")
    slurm.wait_state(job, "RUNNING", limit_s=10)
    said = wait_for(lambda: _lines(output, 2), "the job's output", limit_s=10)
    assert said[0] == "alice"
    assert said[1].split()[0] in NODES
    assert said[1].split()[1] == job
    # An exclusive job gets the whole node, its GPUs too.
    gpus = 4 if partition == "compute" else 2
    assert len(said[1].split()[2].split(",")) == gpus
    # Accounting lags behind slurmctld: its first row may still say PENDING.
    row = wait_for(lambda: _running_row(slurm, job), "sacct to say RUNNING", limit_s=15)
    assert (row["user"], row["partition"], row["account"]) == ("alice", partition, "tg-demo01")
    assert f"gres/gpu={gpus}" in row["tres"]


def test_the_query_account_sees_everybodys_jobs(login: LoginNode, slurm: Slurm) -> None:
    jobs = {user: submit(login, user, "-p shared -w comet-14-01") for user in ("alice", "bob")}
    for job in jobs.values():
        slurm.wait_state(job, "RUNNING")
    seen = login.run("jhquery", "squeue -h -o '%i %u %N'").stdout.splitlines()
    assert sorted(seen) == sorted(f"{job} {user} comet-14-01" for user, job in jobs.items())


def test_a_user_cannot_cancel_anothers_job(login: LoginNode, slurm: Slurm) -> None:
    job = submit(login, "alice", "-p shared")
    slurm.wait_state(job, "RUNNING")
    refused = login.run("bob", f"scancel {job}")
    assert "Access/permission denied" in refused.stderr
    assert slurm.job(job)["JobState"] == "RUNNING"
    assert login.run("alice", f"scancel {job}").returncode == 0
    slurm.wait_state(job, "CANCELLED")
    wait_for(
        lambda: slurm.accounting(job).get("state", "").startswith("CANCELLED"),
        "sacct to say so",
        limit_s=15,
    )


def test_a_job_starts_within_seconds(login: LoginNode, slurm: Slurm) -> None:
    job = submit(login, "alice", "-p shared")
    begin = time.monotonic()
    slurm.wait_state(job, "RUNNING", limit_s=10)
    assert time.monotonic() - begin < 5


@pytest.mark.parametrize(
    ("user", "principals", "reason"),
    [
        ("alice", ["bob"], "another's certificate"),
        ("root", ["root"], "root"),
        ("nobody", ["nobody"], "not a user of the cluster"),
    ],
    ids=["certificate-of-another", "root", "system-user"],
)
def test_the_login_node_refuses(
    login: LoginNode, user: str, principals: list[str], reason: str
) -> None:
    argv = [*login.ssh_argv(user, principals=principals), "id"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 255, reason
    assert "Permission denied (publickey)" in done.stderr


def test_a_login_node_that_is_down_cuts_its_connections(login: LoginNode) -> None:
    with subprocess.Popen(
        [*login.ssh_argv("alice"), "echo up; sleep 600"], stdout=subprocess.PIPE
    ) as session:
        assert session.stdout is not None
        assert session.stdout.readline() == b"up\n"
        login.stop()
        assert session.wait(10) == 255
        assert login.run("alice", "true").returncode == 255
    login.start()
    assert login.run("alice", "true").returncode == 0


def test_an_account_without_association_is_refused(login: LoginNode) -> None:
    done = login.run("alice", "sbatch -A nobody-pays -p shared", stdin=SCRIPT)
    assert done.returncode != 0
    assert "Invalid account" in done.stderr


@pytest.mark.parametrize(
    ("kind", "status", "text"),
    [("fail", 1, ""), ("garbage", 0, "motd"), ("empty", 0, "")],
    ids=["fail", "garbage", "empty"],
)
def test_a_command_fails_on_demand(login: LoginNode, kind: Fault, status: int, text: str) -> None:
    before = len(login.shims.calls("squeue"))
    with login.shims.fault("squeue", kind):
        # Bytes that are no UTF-8 are the point of "garbage".
        done = login.run("jhquery", "squeue -h | tr -d '\\377\\376'")
        direct = login.run("jhquery", "squeue >/dev/null; echo $?")
    assert direct.stdout.strip() == str(status)
    assert text in done.stdout
    healthy = login.run("jhquery", "squeue -h")
    assert (healthy.returncode, healthy.stdout) == (0, "")
    assert [call.user for call in login.shims.calls("squeue")[before:]] == ["jhquery"] * 3


def test_a_full_partition_lets_jobs_wait(login: LoginNode, slurm: Slurm) -> None:
    with slurm.full_partition("compute"):
        job = submit(login, "alice", "-p compute")
        # A fresh job's reason is "None" until the scheduler has looked at it.
        wait_for(
            lambda: (
                [row["reason"] for row in slurm.queue("alice")] in (["Resources"], ["Priority"])
            ),
            "the job to wait for a node",
            limit_s=15,
        )
        assert slurm.job(job)["JobState"] == "PENDING"
    slurm.wait_state(job, "RUNNING")


def test_a_lost_answer_leaves_the_job(login: LoginNode, slurm: Slurm) -> None:
    with login.shims.fault("sbatch", "lost"):
        done = login.run("alice", "sbatch -p shared -J lost-answer", stdin=SCRIPT)
    assert done.returncode == 1
    assert done.stdout == ""
    assert [job["name"] for job in slurm.queue("alice")] == ["lost-answer"]


def test_a_jobs_processes_and_their_ports_are_found(login: LoginNode, slurm: Slurm) -> None:
    code = "import socket, time; s = socket.create_server(('127.0.0.1', 0)); time.sleep(60)"
    # The program has no environment of its own: it is found as a child.
    script = f'#!/bin/bash\n/usr/bin/env -i /usr/bin/python3 -c "{code}"\n'
    jobs = [submit(login, "alice", "-p shared", script=script) for _ in range(2)]
    for job in jobs:
        slurm.wait_state(job, "RUNNING")
        wait_for(partial(_job_ports, slurm, job), "the job's port", limit_s=15)
    first, second = (slurm.job_pids(job) for job in jobs)
    assert not first & second
    assert len(listening_ports(first)) == len(listening_ports(second)) == 1


def test_settings_change_for_a_while(login: LoginNode, slurm: Slurm) -> None:
    with slurm.settings(MinJobAge="2"):
        job = submit(login, "alice", "-p shared", script="#!/bin/bash\ntrue\n")
        wait_for(lambda: not slurm.job(job), "slurmctld to forget the job", limit_s=40)
    assert slurm.accounting(job)["state"] == "COMPLETED"


def test_a_lab_whose_owner_died_is_ended(tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "from tests.lab.folder import Lab\n"
        "from tests.lab.processes import Process\n"
        "lab = Lab.create()\n"
        "sleeper = Process('sleeper', ['/usr/bin/sleep', '600'], records=lab.records,\n"
        "                  log=lab.logs / 'sleeper.log', env=lab.environment())\n"
        "sleeper.start()\n"
        "print(sleeper.pid, flush=True)\n"
        "os._exit(1)\n"
    )
    crashed = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        env={"COMET_LAB": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    left_behind = Identity.of(int(crashed.stdout))
    assert left_behind is not None
    assert len(end_stale_labs(tmp_path)) == 1
    assert not left_behind.alive()
    assert end_stale_labs(tmp_path) == []


def test_a_process_that_dies_at_its_start_is_reported_with_its_log(lab: Lab) -> None:
    doomed = Process(
        "doomed",
        ["/bin/sh", "-c", "echo no such luck; exit 3"],
        records=lab.records,
        log=lab.logs / "doomed.log",
        env=lab.environment(),
    )
    doomed.start()
    with pytest.raises(Exception, match=r"ended with status 3(.|\n)*no such luck"):
        doomed.wait_ready(lambda: False, limit_s=10)


def _job_ports(slurm: Slurm, job: str) -> set[int]:
    return listening_ports(slurm.job_pids(job))


def _running_row(slurm: Slurm, job: str) -> dict[str, str]:
    row = slurm.accounting(job)
    return row if row.get("state") == "RUNNING" else {}


def _lines(path: Path, count: int) -> list[str]:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return []
    return lines if len(lines) >= count else []


@pytest.mark.parametrize("stack", ["5.5", "6.1"], indirect=True)
async def test_hub_proxy_and_gateway_start_and_come_back(stack: Stack) -> None:
    hub = stack.hub
    version = (await hub.api("GET", "/")).body["version"]
    assert version == HUB_VERSIONS[stack.line]
    user = await stack.new_user("alice")
    token = await hub.user_token(user)
    assert (await hub.api("GET", "/user", token=token)).body["name"] == user
    assert (await hub.api("GET", "/users", token=token)).status == 403
    hub.restart()
    stack.tunnelbot.restart()
    stack.proxy.restart()
    hub.wait_up()
    assert (await hub.api("GET", "/user", token=token)).body["name"] == user
    assert stack.tunnelbot.admin("/healthz")[0] == 200


async def test_a_kernel_of_the_node_environment_runs_as_a_user(lab: Lab, say: Say) -> None:
    environment = node_environment("5.5", say)
    port = free_port()
    server = Process(
        "plain-server",
        ["/usr/sbin/runuser", "-u", "alice", "--", environment / "bin" / "jupyter-server",
         "--ServerApp.base_url=/user/alice/", f"--ServerApp.port={port}", "--no-browser",
         "--ServerApp.ip=127.0.0.1", "--IdentityProvider.token=plain"],
        records=lab.records,
        log=lab.logs / "plain-server.log",
        env=lab.environment(HOME="/home/alice"),
        cwd=Path("/home/alice"),
    )  # fmt: skip
    ensure_users()
    server.start()
    try:
        server.wait_ready(lambda: answers(port), limit_s=60)
        base = HubAPI(f"http://127.0.0.1:{port}", "")
        async with Notebook(base, "alice", "plain") as notebook:
            kernel = await notebook.start_kernel()
            assert await kernel.run("import getpass; x = 41; print(getpass.getuser())") == "alice"
            again = notebook.kernel(kernel.id)
            assert await again.run("x + 1") == "42"
            with pytest.raises(CellFailed, match="ZeroDivisionError"):
                await again.run("1 / 0")
            assert await kernel.run("import sys; print(sys.prefix)") == str(environment)
        async with Notebook(base, "alice", "another") as stranger:
            assert (await stranger.get("api/kernels"))[0] == 403
    finally:
        server.stop()
