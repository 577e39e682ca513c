"""The starter with a real JupyterLab, ssh and shell: what must survive, and what must end."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from jupyterhub_comet.starter import tunnel
from tests.integration.starter_edge import (
    ALICE,
    SPAWN,
    RunningStarter,
    Stage,
    ask_notebook,
    open_kernel,
    open_stage,
    run_as,
    until,
)
from tests.lab.environments import HUB_VERSIONS, node_environment
from tests.lab.keys import make_key

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    """Hub and gateway around a node."""
    async with open_stage() as stage:
        yield stage


def gone(job: RunningStarter) -> None:
    """Nothing of the job is left: no process, no file."""
    assert not list(job.folder.glob("tmp/*"))
    assert job.pid_of("ssh") is None


# The way it should go


@pytest.mark.parametrize("line", sorted(HUB_VERSIONS))
async def test_notebook_runs_a_cell_through_the_tunnel(stage: Stage, line: str) -> None:
    job = await stage.start_and_wait(line=line)
    kernel = await open_kernel(stage)
    assert await kernel.run("6 * 7") == "42"
    await kernel.close()
    assert "POST /hub/api/users/alice/activity" in stage.hub.requests
    assert stage.gateway.forwards[0] == "listen notebook 8888"
    assert set(stage.gateway.forwards[1:]) == {"connect hub 8081"}
    job.process.terminate()
    assert await job.ended() == 0
    gone(job)


async def test_a_wrapped_notebook_is_asked_whether_it_knows_sockets(stage: Stage) -> None:
    program = node_environment("5.5") / "bin" / "jupyterhub-singleuser"
    wrapper = stage.folder / "in-container"
    wrapper.write_text(f'#!/bin/sh\nexec {program} "$@"\n')
    wrapper.chmod(0o755)
    await stage.start_and_wait(command=[str(wrapper)])
    assert (await ask_notebook(stage, "GET", "api/status"))[0] == 200


async def test_a_port_in_the_users_configuration_does_no_harm(stage: Stage) -> None:
    folder = stage.folder / "jupyter-config"
    folder.mkdir()
    os.chown(folder, ALICE, ALICE)
    (folder / "jupyter_server_config.py").write_text("c.ServerApp.port = 9999\n")
    await stage.start_and_wait(environment={"JUPYTER_CONFIG_DIR": str(folder)})
    assert (await ask_notebook(stage, "GET", "api/status"))[0] == 200


async def test_prologues_umask_is_the_notebooks_and_not_the_starters(stage: Stage) -> None:
    job = await stage.start(stage.config(), prologue="umask 027")
    await job.said("notebook listening")
    pid = job.pid_of("jupyterhub-singleuser")
    assert "Umask:\t0027" in Path(f"/proc/{pid}/status").read_text()
    assert {path.stat().st_mode & 0o077 for path in job.private.iterdir()} == {0}


# Ends


async def test_F33_killed_notebook_ends_the_job_and_the_tunnel(stage: Stage) -> None:
    """T23: nothing is left that could be reached under the victim's address."""
    job = await stage.start_and_wait()
    pid = job.pid_of("jupyterhub-singleuser")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert await job.ended() == 128 + signal.SIGKILL
    assert stage.hub.events == [{"event": "exit", "signal": "", "exit_status": 137}]
    gone(job)
    await until(lambda: not stage.gateway.connections, "the tunnel to end")
    with pytest.raises(aiohttp.ClientConnectionError):
        await ask_notebook(stage, "GET", "api/status")


async def test_F33_killed_ssh_comes_back_and_the_kernel_lives(stage: Stage) -> None:
    job = await stage.start_and_wait()
    notebook = job.pid_of("jupyterhub-singleuser")
    kernel = await open_kernel(stage)
    await kernel.run("survivor = 42")
    await kernel.close()
    ssh = job.pid_of("ssh -N")
    assert ssh is not None
    old = stage.gateway.visitors
    os.kill(ssh, signal.SIGKILL)
    await job.said("tunnel down: ssh ended; trying again")
    await job.said("tunnel up again")
    # ssh may have its own end ready a moment before the gateway listens.
    await until(lambda: stage.gateway.visitors != old, "the gateway's new listener")
    kernel = await open_kernel(stage, kernel.id)
    assert await kernel.run("survivor") == "42"
    await kernel.close()
    assert job.pid_of("jupyterhub-singleuser") == notebook


async def test_F1_tunnels_cut_by_the_gateway_come_back_for_ever(stage: Stage) -> None:
    job = await stage.start_and_wait()
    for times in range(1, 4):
        old = stage.gateway.visitors
        stage.gateway.cut()
        await until(lambda n=times: job.log.count("tunnel up again") == n, "the tunnel")
        await until(lambda old=old: stage.gateway.visitors != old, "the gateway's new listener")
    assert (await ask_notebook(stage, "GET", "api/status"))[0] == 200


async def test_F5_a_job_waits_for_a_gateway_that_is_not_there_yet(stage: Stage) -> None:
    await stage.gateway.close()
    job = await stage.start(stage.config())
    await job.said("tunnel not up: .*Connection refused; trying again")
    await stage.gateway.open()
    await job.said("notebook listening")
    assert (await ask_notebook(stage, "GET", "api/status"))[0] == 200
    assert job.log.count("tunnel not up") == 1, "said once, not at each try"


async def test_F13_the_last_good_address_serves_while_the_dns_does_not(stage: Stage) -> None:
    hosts, resolver = stage.folder / "hosts", stage.folder / "resolv.conf"
    hosts.write_text("127.0.0.1 localhost gateway.invalid\n")
    resolver.write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
    config = stage.config(check_seconds=3600)
    gateway = config["gateway"]
    assert isinstance(gateway, dict)
    gateway["host"] = "gateway.invalid"
    hide = (
        f"mount --bind {hosts} /etc/hosts && mount --bind {resolver} /etc/resolv.conf && "
        'exec setpriv --reuid=10001 --regid=10001 --clear-groups "$@"'
    )
    job = await stage.start(config, prefix=["unshare", "--mount", "/bin/sh", "-c", hide, "sh"])
    await job.said("tunnel up")
    hosts.write_text("127.0.0.1 localhost\n")
    stage.gateway.cut()
    await job.said("tunnel not up: .*Could not resolve hostname")
    await job.said("tunnel up again")


async def test_a_notebook_that_gave_up_before_the_tunnel_is_started_again(stage: Stage) -> None:
    """jupyterhub-singleuser ends when it cannot reach its hub for two minutes."""
    await stage.gateway.close()
    first = stage.folder / "first"
    first.touch(0o666)
    first.chmod(0o666)
    program = node_environment("5.5") / "bin" / "jupyterhub-singleuser"
    wrapper = stage.folder / "impatient"
    wrapper.write_text(
        f'#!/bin/sh\ncase "$*" in *help-all*) exec {program} "$@";; esac\n'
        f'[ -s {first} ] || {{ echo 1 >{first}; exit 1; }}\nexec {program} "$@"\n'
    )
    wrapper.chmod(0o755)
    job = await stage.start(stage.config(command=[str(wrapper)]))
    await job.said("notebook ended with status 1 before there was a tunnel; waiting")
    await stage.gateway.open()
    await job.said("notebook listening")
    assert job.log.count("notebook started") == 2


async def test_T34_another_host_key_ends_the_job_and_gets_no_forward(stage: Stage) -> None:
    await stage.gateway.close()
    other = stage.folder / "secrets" / "other-key"
    make_key(other)
    await stage.gateway.open(other)
    job = await stage.start(stage.config())
    assert await job.ended() == 76
    assert "the gateway's host key is not one that the hub told us to trust" in job.log
    assert (stage.gateway.logins, stage.gateway.forwards) == (0, [])
    gone(job)


async def test_T34_a_gateway_exchanged_under_a_running_job_gets_no_forward(stage: Stage) -> None:
    job = await stage.start_and_wait()
    await stage.gateway.close()
    logins, forwards = stage.gateway.logins, list(stage.gateway.forwards)
    other = stage.folder / "secrets" / "other-key"
    make_key(other)
    await stage.gateway.open(other)
    assert await job.ended(limit_s=60) == 76
    assert (stage.gateway.logins, stage.gateway.forwards) == (logins, forwards)


async def test_T20_a_job_ends_when_the_gateway_says_that_its_server_has(stage: Stage) -> None:
    job = await stage.start_and_wait()
    stage.gateway.mode = "ended"
    stage.gateway.cut()
    assert await job.ended() == 77
    assert "the gateway says that this server has ended" in job.log
    gone(job)


async def test_T20_a_job_ends_when_the_hub_no_longer_knows_its_token(stage: Stage) -> None:
    job = await stage.start(stage.config(check_seconds=0.2))
    await job.said("notebook listening")
    stage.hub.knows_token = False
    stage.gateway.cut()
    assert await job.ended() == 77
    assert "the hub says that this server has ended" in job.log


async def test_F22_a_job_that_was_admitted_once_outlives_refusals(stage: Stage) -> None:
    job = await stage.start_and_wait()
    stage.gateway.mode = "deny"
    logins = stage.gateway.logins
    stage.gateway.cut()
    await job.said("tunnel not up: .*Permission denied.*; trying again")
    await until(lambda: stage.gateway.logins >= logins + 3, "three refusals")
    assert job.process.returncode is None
    stage.gateway.mode = "admit"
    await job.said("tunnel up again")
    assert tunnel.REFUSED_LIMIT_S > 600, "a hub may take ten minutes to come back"


@pytest.mark.parametrize("epilogue", ["", "echo epilogue $comet_status"], ids=["exec", "epilogue"])
async def test_F32_term_ends_the_notebook_first_and_tells_the_hub(
    stage: Stage, epilogue: str
) -> None:
    job = await stage.start(stage.config(), epilogue=epilogue)
    await job.said("notebook listening")
    job.process.send_signal(signal.SIGUSR1)
    await job.said("SIGUSR1 received")
    await until(lambda: stage.hub.events, "the warning at the hub")
    job.process.send_signal(signal.SIGTERM)
    assert await job.ended() == 0
    assert [event["signal"] for event in stage.hub.events] == ["SIGUSR1", "SIGTERM", ""]
    assert stage.hub.events[-1]["exit_status"] == 0
    assert ("epilogue 0" in job.log) == bool(epilogue)
    gone(job)


async def test_F32_term_to_every_process_still_says_goodbye(stage: Stage) -> None:
    """What scancel and the end of the walltime do: the whole job gets TERM at once."""
    job = await stage.start_and_wait()
    assert (await ask_notebook(stage, "GET", "api/status"))[0] == 200
    for words in ("ssh -N", "jupyterhub-singleuser", "/usr/bin/python3 -I"):
        pid = job.pid_of(words)
        assert pid is not None, words
        os.kill(pid, signal.SIGTERM)
    # The second TERM, ours, may meet a notebook that is on its way out and no longer catches it.
    assert await job.ended() in (0, 128 + signal.SIGTERM)
    assert stage.hub.events[-1]["event"] == "exit"


async def test_a_notebook_that_ignores_term_is_killed(stage: Stage) -> None:
    program = node_environment("5.5") / "bin" / "jupyterhub-singleuser"
    deaf = stage.folder / "deaf"
    deaf.write_text(
        f'#!/bin/sh\ncase "$*" in *help-all*) exec {program} "$@";; esac\n'
        "trap '' TERM\necho deaf\nexec sleep 60\n"
    )
    deaf.chmod(0o755)
    job = await stage.start(stage.config(command=[str(deaf)]))
    await job.said("^deaf$|\ndeaf\n")
    job.process.send_signal(signal.SIGTERM)
    assert await job.ended(limit_s=20) == 128 + signal.SIGKILL
    gone(job)


# Refusals by name


async def test_T22_an_old_jupyter_server_is_refused_by_name(stage: Stage) -> None:
    info = stage.folder / "old" / "jupyter_server-1.8.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: jupyter_server\nVersion: 1.8.0\n")
    job = await stage.start(stage.config(environment={"PYTHONPATH": str(info.parent)}))
    assert await job.ended() == 69
    assert "is 1.8.0, 1.9 or newer is needed" in job.log
    assert "notebook started" not in job.log
    gone(job)


async def test_a_notebook_that_is_not_there_is_named(stage: Stage) -> None:
    job = await stage.start(stage.config(command=["no-such-notebook"]))
    assert await job.ended() == 69
    assert "no-such-notebook is not on this node's PATH" in job.log


async def test_a_node_without_ssh_is_named(stage: Stage) -> None:
    hide = (
        "mount --bind /dev/null /usr/bin/ssh && "
        'exec setpriv --reuid=10001 --regid=10001 --clear-groups "$@"'
    )
    job = await stage.start(
        stage.config(), prefix=["unshare", "--mount", "/bin/sh", "-c", hide, "sh"]
    )
    assert await job.ended() == 69
    assert "this node has no ssh" in job.log
    gone(job)


# The certificate


async def test_certificate_is_renewed_through_the_tunnel_and_used(stage: Stage) -> None:
    job = await stage.start(stage.config(valid_before=time.time() + 4, check_seconds=0.3))
    await job.said("certificate renewed")
    await job.said("notebook listening")
    certificate = job.private / "tunnel-cert.pub"
    assert certificate.read_text().strip() != stage.certificate.read_text().strip()
    assert certificate.stat().st_mode & 0o777 == 0o600
    stage.gateway.cut()
    await job.said("tunnel up again")
    status, listed = await run_as(ALICE, ["ssh-keygen", "-L", "-f", str(certificate)])
    assert status == 0
    assert SPAWN in listed
    assert "Serial: 4711" in listed
