"""Fixtures of the process lab; tests/lab/README.md tells what each can do.

| fixture | scope | what it is |
| --- | --- | --- |
| lab | session | the lab's folder, ports and pid records |
| slurm | session | munged, mariadbd, slurmdbd, slurmctld and two slurmd |
| login | session | sshd of the login node, with Slurm's commands that fail on demand |
| say | session | prints past pytest's capture: progress of long builds |
| make_stack | module | starts hub, proxy and tunnelbot as often as a test needs |
| stack | module | one of them, JupyterHub 5.5; parametrize indirectly for 6.1 |
| hub, proxy, tunnelbot | module | the parts of ``stack`` |
| fresh_stack | test | one for this test alone |
| tidy_servers | test | stops all servers and jobs that the test leaves behind |
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from tests.lab.components import require_programs
from tests.lab.folder import Lab
from tests.lab.hub import Hub
from tests.lab.keys import CertificateAuthority
from tests.lab.login import LoginNode
from tests.lab.proxy import Proxy
from tests.lab.shims import Shims
from tests.lab.slurm import Slurm
from tests.lab.stack import Stack
from tests.lab.tunnelbot import Tunnelbot

Say = Callable[[str], None]
MakeStack = Callable[..., Stack]


@pytest.fixture(scope="session")
def say(pytestconfig: pytest.Config) -> Say:
    """Print a line to the terminal although pytest captures output."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")

    def print_line(text: str) -> None:
        with capture.global_and_fixture_disabled():
            print(f"\nlab: {text}", flush=True)

    return print_line


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """The lab's folder; at the end everything recorded in it is ended."""
    require_programs()
    lab = Lab.create()
    try:
        yield lab
    finally:
        lab.remove()


@pytest.fixture(scope="session")
def slurm(lab: Lab) -> Iterator[Slurm]:
    """A running cluster of two nodes with accounting."""
    slurm = Slurm(lab)
    try:
        slurm.start()
        yield slurm
    finally:
        slurm.stop()


@pytest.fixture(scope="session")
def login(lab: Lab, slurm: Slurm) -> Iterator[LoginNode]:
    """The cluster's login node with Slurm's commands, which fail on demand."""
    node = LoginNode(lab, CertificateAuthority(lab.root / "login-ca"), Shims(lab))
    try:
        node.start()
        yield node
    finally:
        node.stop()


@pytest.fixture(scope="module")
def make_stack(lab: Lab, slurm: Slurm, login: LoginNode, say: Say) -> Iterator[MakeStack]:
    """``make_stack(line="5.5", extra="", start=True)``: a hub with all its parts."""
    made: list[Stack] = []

    def make(*, line: str = "5.5", extra: str = "", start: bool = True) -> Stack:
        stack = Stack(lab, slurm, login, line=line, extra=extra, say=say)
        made.append(stack)
        if start:
            stack.start()
        return stack

    yield make
    for stack in reversed(made):
        stack.stop()


@pytest.fixture(scope="module")
def stack(request: pytest.FixtureRequest, make_stack: MakeStack) -> Stack:
    """Hub, proxy and tunnelbot of one module's tests.

    ``@pytest.mark.parametrize("stack", ["5.5", "6.1"], indirect=True)`` chooses the line.
    """
    return make_stack(line=getattr(request, "param", "5.5"))


@pytest.fixture
def fresh_stack(
    request: pytest.FixtureRequest, lab: Lab, slurm: Slurm, login: LoginNode, say: Say
) -> Iterator[Stack]:
    """Hub, proxy and tunnelbot of this test alone; parametrized like ``stack``."""
    stack = Stack(lab, slurm, login, line=getattr(request, "param", "5.5"), say=say)
    try:
        stack.start()
        yield stack
    finally:
        stack.stop()


@pytest.fixture(scope="module")
def hub(stack: Stack) -> Hub:
    """The hub of ``stack``."""
    return stack.hub


@pytest.fixture(scope="module")
def proxy(stack: Stack) -> Proxy:
    """The proxy of ``stack``."""
    return stack.proxy


@pytest.fixture(scope="module")
def tunnelbot(stack: Stack) -> Tunnelbot:
    """The gateway of ``stack``."""
    return stack.tunnelbot


@pytest.fixture
async def tidy_servers(stack: Stack) -> AsyncIterator[None]:
    """Whatever this test leaves behind is stopped: servers first, then jobs."""
    yield
    try:
        await stack.hub.stop_all()
    finally:
        stack.slurm.cancel_all("alice", "bob")
