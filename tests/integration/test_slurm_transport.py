"""SSH to a real sshd: what is kept, what is refused, and how failures are told apart."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from jupyterhub_comet.errors import (
    ClusterUnreachable,
    KeyBroken,
    OutputUnreadable,
    Refused,
    ReplyLost,
)
from jupyterhub_comet.settings import LoginSettings
from jupyterhub_comet.transport.ssh import SSHTransport
from tests.lab.folder import Lab
from tests.lab.keys import CertificateAuthority
from tests.lab.login import LoginNode
from tests.lab.ports import free_port
from tests.lab.waiting import wait_for

pytestmark = pytest.mark.integration

WHO = ["/usr/bin/id", "-un"]


def settings(*nodes: LoginNode, **more: object) -> LoginSettings:
    return LoginSettings.model_validate(
        {
            "hosts": [node.host for node in nodes],
            "known_hosts": "".join(node.known_hosts for node in nodes),
            **more,
        }
    )


@pytest.fixture
async def transport(login: LoginNode) -> AsyncIterator[SSHTransport]:
    transport = SSHTransport(settings(login), login.ca.folder / "ca")
    yield transport
    await transport.close()


@pytest.fixture
def second(lab: Lab, login: LoginNode) -> Iterator[LoginNode]:
    node = LoginNode(lab, login.ca, login.shims, name=f"second-{time.monotonic_ns()}")
    node.start()
    yield node
    node.stop()


def logins(node: LoginNode) -> int:
    return node.process.log.read_text().count("Accepted publickey")


async def test_command_runs_as_the_account_in_its_home(transport: SSHTransport) -> None:
    result = await transport.run("alice", WHO)
    assert (result.exit_status, result.stdout) == (0, "alice\n")
    result = await transport.run("bob", ["/bin/sh", "-c", "pwd; echo $HOME; cat"], stdin="x")
    home = result.stdout.splitlines()[0]
    assert home.endswith("bob")
    assert result.stdout == f"{home}\n{home}\nx"


async def test_nonzero_status_is_a_result(transport: SSHTransport) -> None:
    result = await transport.run("alice", ["/bin/sh", "-c", "echo no >&2; exit 3"])
    assert (result.exit_status, result.stdout, result.stderr) == (3, "", "no\n")


async def test_connection_is_kept_and_shared(transport: SSHTransport, login: LoginNode) -> None:
    before = logins(login)
    await asyncio.gather(*(transport.run("alice", WHO) for _ in range(20)))
    assert logins(login) == before + 1


async def test_idle_connection_is_closed(login: LoginNode) -> None:
    transport = SSHTransport(settings(login, idle_seconds=0.2), login.ca.folder / "ca")
    await transport.run("alice", WHO)
    before = logins(login)
    ended = login.process.log.read_text().count("Disconnected from user alice")
    async with asyncio.timeout(10):
        while login.process.log.read_text().count("Disconnected from user alice") == ended:
            await asyncio.sleep(0.05)
    await transport.run("alice", WHO)
    assert logins(login) == before + 1
    await transport.close()


async def test_connections_are_bounded_over_all_accounts(login: LoginNode) -> None:
    transport = SSHTransport(settings(login, max_connections=1), login.ca.folder / "ca")
    slow = asyncio.create_task(transport.run("alice", ["/usr/bin/sleep", "1"]))
    results = await asyncio.gather(*(transport.run(user, WHO) for user in ("bob", "alice", "bob")))
    assert [result.stdout for result in results] == ["bob\n", "alice\n", "bob\n"]
    assert (await slow).exit_status == 0
    await transport.close()


@pytest.mark.parametrize("sessions", [1, 2])
async def test_few_sessions_allowed_by_sshd_are_enough(
    lab: Lab, login: LoginNode, sessions: int
) -> None:
    node = LoginNode(lab, login.ca, login.shims, name=f"few-{sessions}")
    config = lab.root / node.process.name.replace("sshd-", "") / "sshd_config"
    config.write_text(config.read_text() + f"MaxSessions {sessions}\n")
    node.start()
    try:
        transport = SSHTransport(settings(node), login.ca.folder / "ca")
        sleep = ["/usr/bin/sleep", "0.3"]
        results = await asyncio.gather(*(transport.run("alice", sleep) for _ in range(6)))
        assert {result.exit_status for result in results} == {0}
        await transport.close()
    finally:
        node.stop()


@pytest.mark.parametrize("account", ["root", "slurm", "-oProxyCommand=x", "a/b", ""])
async def test_T38_accounts_that_never_log_in(transport: SSHTransport, account: str) -> None:
    with pytest.raises(Refused):
        await transport.run(account, WHO)


async def test_T38_other_ca_is_refused_with_host_and_cause(login: LoginNode, lab: Lab) -> None:
    other = CertificateAuthority(lab.root / "other-ca")
    transport = SSHTransport(settings(login), other.folder / "ca")
    with pytest.raises(ClusterUnreachable, match=rf"{login.host} refuses the certificate"):
        await transport.run("alice", WHO)


async def test_missing_ca_is_broken(login: LoginNode, tmp_path: Path) -> None:
    with pytest.raises(KeyBroken, match="nothing-here"):
        await SSHTransport(settings(login), tmp_path / "nothing-here").run("alice", WHO)


async def test_F27_changed_host_key_is_refused(login: LoginNode, second: LoginNode) -> None:
    wrong = f"[127.0.0.1]:{login.port} " + second.known_hosts.split(" ", 1)[1]
    transport = SSHTransport(settings(login, known_hosts=wrong), login.ca.folder / "ca")
    before = logins(login)
    with pytest.raises(ClusterUnreachable, match="host key that is not the pinned one"):
        await transport.run("alice", WHO)
    assert logins(login) == before


async def test_F26_next_host_is_taken_and_the_first_one_later(
    login: LoginNode, second: LoginNode
) -> None:
    transport = SSHTransport(settings(second, login), login.ca.folder / "ca")
    assert (await transport.run("alice", WHO)).stdout == "alice\n"
    before = logins(login)
    second.stop()
    assert (await transport.run("alice", WHO)).stdout == "alice\n"
    assert (await transport.run("bob", WHO)).stdout == "bob\n"
    assert logins(login) == before + 2
    await transport.close()


async def test_F26_no_host_at_all_names_each(login: LoginNode) -> None:
    hosts = [f"127.0.0.1:{free_port()}", f"localhost:{free_port()}"]
    transport = SSHTransport(settings(login, hosts=hosts), login.ca.folder / "ca")
    with pytest.raises(ClusterUnreachable) as caught:
        await transport.run("alice", WHO)
    assert all(host in str(caught.value) for host in hosts)
    assert "login" in str(caught.value)


async def test_silent_host_costs_the_connect_time_limit(login: LoginNode) -> None:
    server = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    limits = settings(login, hosts=[f"127.0.0.1:{port}"], connect_timeout_seconds=0.5)
    with pytest.raises(ClusterUnreachable, match=r"within 0\.5 s"):
        await SSHTransport(limits, login.ca.folder / "ca").run("alice", WHO)
    server.close()


async def test_command_that_hangs_is_stopped_on_the_node(
    transport: SSHTransport, login: LoginNode
) -> None:
    with pytest.raises(ReplyLost, match="longer than 1 s"):
        await transport.run("alice", ["/usr/bin/sleep", "3217"], timeout_s=1)
    assert "3217" not in login.run("alice", "ps -u alice -o args=; true").stdout
    assert (await transport.run("alice", WHO)).stdout == "alice\n"


async def test_connection_that_breaks_under_a_command_leaves_it_unknown(
    login: LoginNode, second: LoginNode
) -> None:
    transport = SSHTransport(settings(second), login.ca.folder / "ca")
    running = asyncio.create_task(transport.run("alice", ["/usr/bin/sleep", "30"]))
    listed = "ps -u alice -o args= | grep '^/usr/bin/[s]leep 30'"
    await asyncio.to_thread(
        lambda: wait_for(lambda: login.run("alice", listed).stdout, "the command", limit_s=10)
    )
    await asyncio.to_thread(second.stop)
    with pytest.raises(ReplyLost):
        await running


async def test_cancelled_call_leaves_the_connection_usable(
    transport: SSHTransport, login: LoginNode
) -> None:
    await transport.run("alice", WHO)
    before = logins(login)
    calls = [
        asyncio.create_task(transport.run("alice", ["/usr/bin/sleep", "5"])) for _ in range(20)
    ]
    await asyncio.sleep(0.1)
    for call in calls:
        call.cancel()
    assert all(
        isinstance(outcome, asyncio.CancelledError)
        for outcome in await asyncio.gather(*calls, return_exceptions=True)
    )
    assert (await transport.run("alice", WHO)).stdout == "alice\n"
    assert logins(login) == before


async def test_bytes_that_are_no_text_are_replaced(transport: SSHTransport) -> None:
    result = await transport.run("alice", ["/usr/bin/printf", "a\\377b"])
    assert result.stdout == "a\ufffdb"


async def test_endless_output_is_cut_off(transport: SSHTransport) -> None:
    with pytest.raises(OutputUnreadable, match="64 MiB"):
        await transport.run("alice", ["/usr/bin/cat", "/dev/zero"])
    assert (await transport.run("alice", WHO)).stdout == "alice\n"


async def test_line_end_in_an_argument_is_refused(transport: SSHTransport) -> None:
    with pytest.raises(OutputUnreadable, match="line end"):
        await transport.run("alice", ["/usr/bin/echo", "a\nb"])


async def test_T44_dot_files_neither_speak_nor_set_variables(
    transport: SSHTransport, login: LoginNode
) -> None:
    noise = "echo noise; echo more >&2; export SQUEUE_FORMAT=%u SBATCH_PARTITION=secret"
    done = login.run("alice", f"cp ~/.bashrc ~/.bashrc.kept 2>/dev/null; echo '{noise}' >~/.bashrc")
    assert done.returncode == 0, done.stderr
    try:
        result = await transport.run("alice", ["/usr/bin/env"])
        assert "noise" not in result.stdout
        assert "SQUEUE" not in result.stdout
        assert "SBATCH" not in result.stdout
    finally:
        login.run("alice", "rm ~/.bashrc; mv ~/.bashrc.kept ~/.bashrc 2>/dev/null; true")
