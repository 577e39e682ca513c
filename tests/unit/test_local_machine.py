"""Steps, daemons, packet filter and guesses: what `up` and `down` stand on."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from pathlib import Path

import pytest

from local import network, versions
from local.causes import guess_cause
from local.commands import Work
from local.errors import CommandFailed, LocalError
from local.pki import LEAVES, render_kubeconfig
from local.places import Places
from local.processes import Daemons, Record, boot_id, start_time
from local.steps import Step, Steps, StepsFailed
from local.up import Target, choose_target, load_target

pytestmark = pytest.mark.unit

SLEEPER = [sys.executable, "-c", "import time; time.sleep(600)"]


def nothing(_: Work) -> str:
    """A step that does nothing."""
    return "done"


def test_steps_run_after_what_they_need_and_print_time_and_word(tmp_path: Path) -> None:
    order: list[str] = []

    def step(name: str) -> Step:
        def run(work: Work) -> str:
            order.append(name)
            return f"word {name}"

        return Step(name, run, ("a",) if name != "a" else ())

    out = io.StringIO()
    Steps(tmp_path, out=out).run([step("a"), step("b"), step("c")])
    assert order[0] == "a"
    assert sorted(order) == ["a", "b", "c"]
    assert " s  a: word a (" in out.getvalue()


def test_independent_steps_overlap(tmp_path: Path) -> None:
    barrier = threading.Barrier(2, timeout=10)

    def meet(work: Work) -> str:
        barrier.wait()
        return "met"

    Steps(tmp_path, out=io.StringIO()).run([Step("a", meet), Step("b", meet)])


def test_failure_names_step_log_last_lines_cause_and_next_step(tmp_path: Path) -> None:
    def fail(work: Work) -> str:
        work.run(["sh", "-c", "echo wget: no space left on device >&2; exit 3"])
        return "never"

    out = io.StringIO()
    steps = [Step("fetch it", fail), Step("later", nothing, ("fetch it",))]
    with pytest.raises(StepsFailed) as caught:
        Steps(tmp_path, out=out).run(steps)
    text = str(caught.value)
    assert "FAILED: fetch it:" in text
    assert str(tmp_path / "step-fetch-it.log") in text
    assert "| wget: no space left on device" in text
    assert "likely cause: the disk is full" in text
    assert "next step: free some space" in text
    assert "later" not in out.getvalue()


def test_failure_stops_the_programs_of_other_steps(tmp_path: Path) -> None:
    started = threading.Event()
    ended: list[BaseException] = []

    def long(work: Work) -> str:
        started.set()
        try:
            work.run(SLEEPER)
        except LocalError as error:
            ended.append(error)
            raise
        return "never"

    def fail(work: Work) -> str:
        started.wait(10)
        raise CommandFailed(["x"], "failed")

    with pytest.raises(StepsFailed) as caught:
        Steps(tmp_path, out=io.StringIO()).run([Step("long", long), Step("fail", fail)])
    assert len(ended) == 1
    assert "FAILED: long" not in str(caught.value)


def test_program_over_its_limit_is_ended_with_its_children(tmp_path: Path) -> None:
    work = Work("w", tmp_path / "log", threading.Event())
    script = "sleep 600 & echo $!; wait"
    with pytest.raises(CommandFailed, match="took longer than 1 s"):
        work.run(["sh", "-c", script], limit_s=1)
    child = int(work.log.read_text().splitlines()[-1])
    assert start_time(child) is None


def test_need_that_no_step_fulfils_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"needs \['b'\]"):
        Steps(tmp_path, out=io.StringIO()).run([Step("a", nothing, ("b",))])


@pytest.fixture
def daemons(tmp_path: Path) -> Daemons:
    """A folder of records."""
    (tmp_path / "run").mkdir()
    return Daemons(tmp_path / "run", tmp_path)


def test_daemon_is_started_once_and_again_only_when_something_changes(
    daemons: Daemons, tmp_path: Path
) -> None:
    config = tmp_path / "config"
    config.write_text("1")
    try:
        assert daemons.ensure("d", SLEEPER, inputs=[config])
        first = daemons.find("d")
        assert not daemons.ensure("d", SLEEPER, inputs=[config])
        assert daemons.find("d") == first
        config.write_text("2")
        assert daemons.ensure("d", SLEEPER, inputs=[config])
        second = daemons.find("d")
        assert first and second and not first.is_alive() and second.is_alive()
    finally:
        assert daemons.stop("d")
    assert daemons.find("d") is None


def test_daemon_that_ignores_term_is_killed(daemons: Daemons, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    code = "import signal,time,pathlib; signal.signal(15, signal.SIG_IGN);"
    code += f"pathlib.Path({str(ready)!r}).touch(); time.sleep(600)"
    daemons.ensure("d", [sys.executable, "-c", code])
    record = daemons.find("d")
    assert record is not None
    waiter = threading.Event()
    while not ready.exists():
        waiter.wait(0.02)
    assert daemons.stop("d", grace_s=0.2)
    assert not record.is_alive()


def test_pid_of_another_process_is_never_signalled(daemons: Daemons, tmp_path: Path) -> None:
    daemons.ensure("victim", SLEEPER)
    victim = daemons.find("victim")
    assert victim is not None
    try:
        for stranger in (
            Record("d", victim.pid, victim.started + 1, victim.boot, "x"),
            Record("d", victim.pid, victim.started, "another boot", "x"),
        ):
            assert not stranger.is_alive()
            text = (tmp_path / "run" / "victim.json").read_text()
            changed = text.replace(str(victim.started), str(stranger.started))
            changed = changed.replace(victim.boot, stranger.boot)
            (tmp_path / "run" / "d.json").write_text(changed)
            assert not daemons.stop("d")
            assert victim.is_alive()
    finally:
        daemons.stop("victim")


def test_zombie_counts_as_ended() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert start_time(pid) is None
    assert boot_id()
    os.waitpid(pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


FILTER = """\
*filter
:INPUT ACCEPT [5:300]
:DOCKER - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-ROUTER-INPUT - [0:0]
[1:2] -A INPUT -m comment --comment "kube-router netpol - X" -j KUBE-ROUTER-INPUT
[1:2] -A INPUT -p tcp -m tcp --dport 22 -j ACCEPT
[0:0] -A INPUT -m comment --comment "not KUBE-FORWARD" -j DOCKER
[0:0] -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
COMMIT
"""


def test_only_our_chains_and_the_rules_that_name_them_go() -> None:
    assert network.without_chains(FILTER).splitlines() == [
        "*filter",
        ":INPUT ACCEPT [5:300]",
        ":DOCKER - [0:0]",
        "[1:2] -A INPUT -p tcp -m tcp --dport 22 -j ACCEPT",
        '[0:0] -A INPUT -m comment --comment "not KUBE-FORWARD" -j DOCKER',
        "COMMIT",
    ]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("listen tcp 10.244.0.1:6443: bind: address already in use", "port"),
        ("pip: CERTIFICATE_VERIFY_FAILED certificate verify failed", "certificate authority"),
        ("dial tcp: lookup proxy on 1.2.3.4:53: no such host", "names"),
        ("go: go.mod requires go >= 1.24.0 (running go 1.19)", "toolchain"),
        ("Error: timed out waiting for the condition", "pods"),
    ],
    ids=["port", "authority", "dns", "go", "pods"],
)
def test_known_errors_get_a_cause(text: str, why: str) -> None:
    cause = guess_cause(f"noise\n{text}\n")
    assert cause is not None
    assert why in cause.why


def test_unknown_error_gets_none() -> None:
    assert guess_cause("it is raining") is None


def test_kubeconfig_names_files_and_holds_no_key() -> None:
    text = render_kubeconfig(Path("/keys"), "admin")
    assert "/keys/admin.key" in text
    assert "-data" not in text


def test_only_two_certificates_are_almighty() -> None:
    almighty = [leaf.name for leaf in LEAVES if "system:masters" in leaf.subject]
    assert almighty == ["apiserver-kubelet", "admin"]


def test_local_1_never_asks_the_current_context(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kubectl = tmp_path / "kubectl"
    kubectl.write_text('#!/bin/sh\ncase "$1" in config) echo kind-lab;; *) echo ok;; esac\n')
    kubectl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert choose_target({}) == Target("kind-lab")
    assert choose_target({"LOCAL": "1"}) == Target()
    kubectl.write_text(f"#!/bin/sh\necho {versions.CONTEXT}\n")
    assert choose_target({}) == Target()
    kubectl.write_text("#!/bin/sh\n[ $1 = config ] && echo dead && exit 0; exit 1\n")
    assert choose_target({}) == Target()


def test_target_is_remembered(tmp_path: Path) -> None:
    places = Places(tmp_path, tmp_path, tmp_path)
    assert load_target(places) is None
    Target("kind-lab").save(places)
    assert load_target(places) == Target("kind-lab")


def test_second_up_or_down_of_a_state_is_refused_and_another_state_is_not(tmp_path: Path) -> None:
    places = Places(tmp_path, tmp_path, tmp_path / "state")
    other = Places(tmp_path, tmp_path, tmp_path / "other")
    with places.held():
        with pytest.raises(LocalError, match="another up or down"), places.held():
            pass
        with other.held():
            pass
    with places.held():
        pass
