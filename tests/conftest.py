"""What all tests share: logs of the lab in the report of a failed test, and who runs where.

With several workers (pytest-xdist) the tests of one file stay together, since they share a
lab; all cluster tests do, since there is one cluster; unit tests go wherever there is room.
"""

from __future__ import annotations

from collections.abc import Generator

import pytest

from tests.lab.logs import LOGS


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each test that needs services its group."""
    for item in items:
        if item.get_closest_marker("cluster"):
            item.add_marker(pytest.mark.xdist_group("cluster"))
        elif item.get_closest_marker("integration"):
            item.add_marker(pytest.mark.xdist_group(item.path.name))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """What the logs say from now on belongs to this test."""
    LOGS.mark()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the ends of all logs to the report of a failed setup, test or teardown."""
    report = yield
    if report.failed:
        report.sections.extend(LOGS.sections())
    return report
