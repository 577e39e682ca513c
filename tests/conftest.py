"""What all tests share: the logs of the lab's parts in the report of a failed test."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from tests.lab.logs import LOGS


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
