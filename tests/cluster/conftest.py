"""Fixtures for the chart in a real Kubernetes; `make up` has installed it.

site      the hub's REST API as the administrator, through the LoadBalancer
tidy      no server is left and no job of alice or bob, before and after
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.lab.components import missing
from tests.lab.hub_api import HubAPI
from tests.lab.waiting import LabBroken

from . import site as installed


@pytest.fixture(scope="session")
def base_url() -> str:
    """The hub's address as browsers use it."""
    try:
        return f"http://{installed.service_address('proxy-public')}"
    except (LabBroken, OSError) as exc:
        missing(f"no installed chart ({exc}): run `make up`")


@pytest.fixture
async def site(base_url: str) -> HubAPI:
    """The hub's REST API, as the administrator."""
    await installed.wait_hub_up(base_url)
    return await installed.log_in(base_url, "admin")


@pytest.fixture
async def tidy(site: HubAPI) -> AsyncIterator[None]:
    """Stop all servers and jobs, before the test (of an interrupted run) and after it."""
    await clear(site)
    yield
    await clear(site)


async def clear(site: HubAPI) -> None:
    """Leave no server and no job of alice or bob."""
    await site.stop_all()
    for user in ("alice", "bob"):
        if installed.queue(user):
            installed.slurm("scancel", "-u", user)
        installed.wait_for(f"the end of {user}'s jobs", lambda user=user: not installed.queue(user))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """A failure brings the logs of all that could have caused it."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.when != "call" or not report.failed:
        return
    for pod in ("deploy/hub", "deploy/tunnelbot", "deploy/comet-login", "comet-node-0"):
        try:
            text = installed.kubectl("logs", pod, "--all-containers", "--tail=60")
        except LabBroken as exc:
            text = str(exc)
        report.sections.append((f"logs of {pod}", text))
    events = installed.kubectl("get", "events", "--sort-by=.lastTimestamp")
    report.sections.append(("events", "\n".join(events.splitlines()[-30:])))
