"""Where z2jh's chart is looked for, in which order, and what is refused."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from local.errors import LocalError
from local.subchart import candidates, copy_chart, package_version, wanted_version

pytestmark = pytest.mark.unit

REPOSITORY = Path(__file__).resolve().parents[2]


def package(path: Path, version: str = "4.4.0", name: str = "jupyterhub") -> Path:
    """A packaged chart."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        text = f"apiVersion: v2\nname: {name}\nversion: {version}\n".encode()
        member = tarfile.TarInfo(f"{name}/Chart.yaml")
        member.size = len(text)
        tar.addfile(member, io.BytesIO(text))
    return path


def test_given_package_comes_before_charts_before_helms_cache(tmp_path: Path) -> None:
    given = package(tmp_path / "mine.tgz")
    vendored = package(tmp_path / "chart" / "charts" / "jupyterhub-4.4.0.tgz")
    cached = package(tmp_path / "cache" / "z2jh-jupyterhub-4.4.0.tgz")
    package(tmp_path / "cache" / "jupyterhub-4.3.0.tgz")
    found = candidates({"Z2JH_CHART": str(given)}, tmp_path / "chart", tmp_path / "cache", "4.4.0")
    assert [path for _, path in found] == [given, vendored, cached]


def test_given_package_that_is_not_there_is_an_error_and_not_a_fallback(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match=r"Z2JH_CHART=/none\.tgz"):
        list(candidates({"Z2JH_CHART": "/none.tgz"}, tmp_path, tmp_path, "4.4.0"))


def test_nothing_at_hand_yields_nothing(tmp_path: Path) -> None:
    assert list(candidates({}, tmp_path, tmp_path, "4.4.0")) == []


def test_version_is_read_from_the_package(tmp_path: Path) -> None:
    assert package_version(package(tmp_path / "a.tgz", "4.4.0+standin")) == "4.4.0+standin"


@pytest.mark.parametrize("kind", ["another chart", "no archive"])
def test_package_of_something_else_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.tgz"
    if kind == "another chart":
        package(path, name="daskhub")
    else:
        path.write_text("hello")
    with pytest.raises(LocalError, match=r"x\.tgz is not a package of the chart jupyterhub"):
        package_version(path)


def test_copy_has_an_empty_charts_folder_and_no_lock_file(tmp_path: Path) -> None:
    chart = tmp_path / "chart"
    package(chart / "charts" / "jupyterhub-4.3.0.tgz")
    (chart / "Chart.yaml").write_text("name: x\n")
    (chart / "Chart.lock").write_text("digest: x\n")
    copy_chart(chart, tmp_path / "copy")
    assert sorted(path.name for path in (tmp_path / "copy").iterdir()) == ["Chart.yaml", "charts"]
    assert not list((tmp_path / "copy" / "charts").iterdir())


def test_our_chart_names_the_version_that_the_standin_answers_for() -> None:
    standin = (REPOSITORY / "local" / "z2jh" / "Chart.yaml").read_text()
    assert f"version: {wanted_version(REPOSITORY / 'chart')}+standin" in standin
