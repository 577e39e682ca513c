"""Fixtures of the unit tests: the chart, rendered by a real helm."""

from __future__ import annotations

import pytest

from tests.unit.charts import STANDIN, Chart, find_helm, find_z2jh


@pytest.fixture(scope="session")
def helm() -> str:
    """Path of helm."""
    return find_helm()


@pytest.fixture(scope="session", params=["standin", "z2jh"])
def chart(
    request: pytest.FixtureRequest, helm: str, tmp_path_factory: pytest.TempPathFactory
) -> Chart:
    """chart/ with the stand-in, and with the real z2jh wherever that is at hand."""
    subchart = STANDIN if request.param == "standin" else find_z2jh(helm)
    if subchart is None:
        pytest.skip("the real z2jh chart is not at hand (Z2JH_CHART, chart/charts, Helm's cache)")
    return Chart.copy(
        helm, request.param, subchart, tmp_path_factory.mktemp(request.param) / "chart"
    )
