"""What the chart renders is taken by a real API server, field by field."""

from __future__ import annotations

import pytest

from tests.cluster.site import run, tool
from tests.lab.components import missing
from tests.lab.waiting import LabBroken
from tests.unit.charts import STANDIN, VALUES_FILES, Chart, find_helm, find_z2jh

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="session", params=["standin", "z2jh"])
def rendered(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Chart:
    """chart/ with the stand-in, and with the real z2jh wherever that is at hand."""
    try:
        run(tool("kubectl"), "get", "--raw", "/readyz")
    except LabBroken as exc:
        missing(f"no Kubernetes answers ({exc}): run `make up`")
    helm = find_helm()
    subchart = STANDIN if request.param == "standin" else find_z2jh(helm)
    if subchart is None:
        pytest.skip("the real z2jh chart is not at hand (Z2JH_CHART, chart/charts, Helm's cache)")
    return Chart.copy(helm, request.param, subchart, tmp_path_factory.mktemp("dry-run") / "chart")


@pytest.mark.parametrize("values", VALUES_FILES)
def test_every_values_file_passes_a_server_side_dry_run(rendered: Chart, values: str) -> None:
    text = rendered.text([values])
    assert isinstance(text, str), text
    # A namespace that every cluster has; nothing is kept of a dry run.
    argv = ["--namespace", "default", "apply", "--dry-run=server", "--validate=strict", "-f", "-"]
    answer = run(tool("kubectl"), *argv, stdin=text)
    assert answer.count("(server dry run)") == len(rendered.render([values]))
