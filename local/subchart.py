"""Where Zero to JupyterHub's chart comes from, and a copy of our chart that has it inside.

In this order: Z2JH_CHART, chart/charts/, Helm's own cache, a download that must fail within ten
seconds, and last, with a loud notice, the stand-in local/z2jh. Helm looks for the subchart in
the chart's charts/ folder; that folder is only ever filled in a copy outside the checkout.
"""

from __future__ import annotations

import re
import shutil
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from local.commands import Work, ask
from local.errors import CommandFailed, LocalError

_DOWNLOAD_LIMIT_S = 10.0
STANDIN_NOTICE = """\
  ********************************************************************************
  * The chart of Zero to JupyterHub could not be had: installing the STAND-IN,
  * local/z2jh ({version}), which only answers what our chart relies on.
  * For the real one: Z2JH_CHART=path/to/jupyterhub-{real}.tgz make up
  ********************************************************************************"""


@dataclass(frozen=True)
class Subchart:
    """The z2jh that was found: where, in words, and which version."""

    origin: str
    version: str

    @property
    def is_standin(self) -> bool:
        """Whether it is our own stand-in."""
        return "standin" in self.version


def wanted_version(chart: Path) -> str:
    """Read the exact z2jh version that our chart depends on."""
    text = (chart / "Chart.yaml").read_text()
    found = re.search(r"- name: jupyterhub\n\s+version: [\"']?([0-9.]+)", text)
    if not found:
        raise LocalError(f"{chart}/Chart.yaml: no dependency named jupyterhub with a version")
    return found[1]


def candidates(
    environment: Mapping[str, str], chart: Path, helm_cache: Path, version: str
) -> Iterator[tuple[str, Path]]:
    """Yield the packages at hand, the best first, each with where it was found.

    Raises LocalError where Z2JH_CHART names no file: whoever sets it does not want another.
    """
    given = environment.get("Z2JH_CHART", "")
    if given:
        if not Path(given).is_file():
            raise LocalError(f"Z2JH_CHART={given}: there is no such file")
        yield "Z2JH_CHART", Path(given)
    name = f"jupyterhub-{version}.tgz"
    for origin, folder in (("chart/charts", chart / "charts"), ("Helm's cache", helm_cache)):
        for path in sorted(folder.glob(f"*{name}")):
            yield origin, path


def package_version(package: Path) -> str:
    """Read the version of a packaged jupyterhub chart. Raises LocalError for anything else."""
    text = ""
    with suppress(tarfile.TarError, KeyError, OSError), tarfile.open(package) as tar:
        member = tar.extractfile("jupyterhub/Chart.yaml")
        text = member.read().decode("utf-8", "replace") if member else ""
    name = re.search(r"^name: [\"']?jupyterhub[\"']?\s*$", text, re.MULTILINE)
    version = re.search(r"^version: [\"']?([^\s\"']+)", text, re.MULTILINE)
    if not name or not version:
        raise LocalError(f"{package} is not a package of the chart jupyterhub")
    return version[1]


def copy_chart(chart: Path, target: Path) -> None:
    """Copy our chart without charts/ and the lock file, which names a download."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(chart, target, ignore=shutil.ignore_patterns("charts", "Chart.lock"))
    (target / "charts").mkdir()


def provide(
    work: Work,
    *,
    helm: str,
    chart: Path,
    standin: Path,
    target: Path,
    environment: Mapping[str, str],
) -> Subchart:
    """Copy our chart to target with the best z2jh that can be had in its charts/ folder."""
    version = wanted_version(chart)
    copy_chart(chart, target)
    helm_cache = Path(ask([helm, "env", "HELM_REPOSITORY_CACHE"]).strip())
    for origin, package in candidates(environment, chart, helm_cache, version):
        found = package_version(package)
        if found != version:
            raise LocalError(f"{package} is z2jh {found}, but the chart depends on {version}")
        shutil.copyfile(package, target / "charts" / f"jupyterhub-{version}.tgz")
        return Subchart(f"{origin}: {package}", version)
    with suppress(CommandFailed):
        # Without a lock file Helm takes the exact version from Chart.yaml, whether or not the
        # repository was added.
        work.run([helm, "dependency", "build", str(target)], limit_s=_DOWNLOAD_LIMIT_S)
        return Subchart("downloaded", version)
    folder = target / "charts"
    work.run([helm, "package", str(standin), "--destination", str(folder)], limit_s=60)
    (package,) = folder.glob("*.tgz")
    return Subchart("local/z2jh", package_version(package))
