"""The parts of the process lab that need no service."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab.components import require_programs
from tests.lab.logs import LogBook, tail
from tests.lab.ports import BLOCK_SIZE, free_block, free_port
from tests.lab.processes import Identity, descendants
from tests.lab.waiting import LabBroken, wait_for

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("ci", "outcome"),
    [("true", pytest.fail.Exception), ("", pytest.skip.Exception)],
    ids=["ci-fails", "laptop-skips"],
)
def test_a_missing_program_is_named(
    monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[BaseException]
) -> None:
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match="needs no-such-program; run tests/lab/install"):
        require_programs(["sh", "no-such-program"])


def test_another_process_never_gets_our_port() -> None:
    ours = {free_port() for _ in range(20)}
    code = "from tests.lab.ports import free_port\nprint([free_port() for _ in range(50)])"
    printed = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert not ours & set(map(int, printed.strip("[]\n").split(",")))


def test_a_block_of_ports_is_below_the_ephemeral_range() -> None:
    first, last = free_block()
    assert last - first + 1 == BLOCK_SIZE
    assert first >= 20000
    assert last < 30000
    assert free_block()[0] != first


def test_a_used_pid_is_no_identity() -> None:
    ours = Identity.of(os.getpid())
    assert ours is not None
    assert ours.alive()
    assert not Identity(ours.pid, ours.start_ticks - 1, ours.boot_id).alive()
    assert not Identity(ours.pid, ours.start_ticks, "another boot").alive()


def test_a_zombie_has_ended() -> None:
    with subprocess.Popen(["/bin/true"]) as child:
        wait_for(lambda: Identity.of(child.pid) is None, "the zombie", limit_s=5)


def test_descendants_are_found_over_generations() -> None:
    script = "sleep 60 & echo $!; wait"
    with subprocess.Popen(["/bin/sh", "-c", script], stdout=subprocess.PIPE) as shell:
        assert shell.stdout is not None
        sleeper = int(shell.stdout.readline())
        found = [identity.pid for identity in descendants(os.getpid())]
        assert {shell.pid, sleeper} <= set(found)
        shell.terminate()
        os.kill(sleeper, 15)


def test_a_wait_has_a_limit_and_a_name() -> None:
    with pytest.raises(LabBroken, match=r"waited 0\.1 s for a miracle"):
        wait_for(lambda: False, "a miracle", limit_s=0.1, interval_s=0.02)


def test_a_report_shows_only_what_the_test_itself_logged(tmp_path: Path) -> None:
    book = LogBook()
    log, silent = tmp_path / "slurmctld.log", tmp_path / "sshd.log"
    log.write_text("before\n")
    silent.write_text("before\n")
    book.add("slurmctld", log)
    book.add("sshd", silent)
    book.mark()
    with log.open("a") as file:
        file.write("now\n")
    assert book.sections() == [("log: slurmctld", "now")]


def test_the_tail_of_a_huge_log_is_short(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("".join(f"line {number}\n" for number in range(100_000)))
    assert tail(log, 2) == "line 99998\nline 99999"
    assert "No such file" in tail(tmp_path / "none")


def test_a_held_port_is_not_chosen_while_somebody_listens() -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        assert port not in {free_port() for _ in range(20)}
