"""The chart rendered by a real helm, with z2jh or its stand-in as the subchart.

The checkout stays as it is: each kind of subchart gets a copy of chart/ in a folder of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.lab.components import missing

CHECKOUT = Path(__file__).resolve().parents[2]
CHART = CHECKOUT / "chart"
VALUES = CHECKOUT / "values"
STANDIN = CHECKOUT / "local" / "z2jh"
VALUES_FILES = sorted(path.stem for path in VALUES.glob("*.yaml"))

# What helm renders for where there is no API server to ask.
_KUBERNETES = "1.34"
_LIMIT_S = 60

Object = dict[str, Any]


def find_helm() -> str:
    """Path of helm: on the PATH, else where local/ builds it."""
    cache = Path(os.environ.get("COMET_CACHE") or "/var/cache/jupyterhub-comet")
    found = shutil.which("helm") or shutil.which("helm", path=str(cache / "bin"))
    if found is None:
        missing(f"the chart's tests need helm, on the PATH or in {cache / 'bin'}; run `make tools`")
    return found


def z2jh_version() -> str:
    """The version of Zero to JupyterHub that the chart depends on."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    version: str = chart["dependencies"][0]["version"]
    return version


def find_z2jh(helm: str) -> Path | None:
    """The real chart's archive where it is at hand: Z2JH_CHART, chart/charts, Helm's cache."""
    archive = f"jupyterhub-{z2jh_version()}.tgz"
    given = os.environ.get("Z2JH_CHART")
    cache = subprocess.run(
        [helm, "env", "HELM_REPOSITORY_CACHE"],
        capture_output=True,
        text=True,
        check=True,
        timeout=_LIMIT_S,
    ).stdout.strip()
    places = [Path(given)] if given else []
    places += [CHART / "charts" / archive, Path(cache) / archive]
    return next((place for place in places if place.is_file()), None)


@dataclass(frozen=True)
class Refused:
    """helm did not render."""

    message: str


@dataclass
class Chart:
    """A copy of chart/ with its subchart in place.

    Attributes:
        kind: ``standin`` or ``z2jh``.
    """

    helm: str
    kind: str
    folder: Path
    _rendered: dict[tuple[str, ...], str] = field(default_factory=dict, repr=False)
    _parsed: dict[str, list[Object]] = field(default_factory=dict, repr=False)

    @classmethod
    def copy(cls, helm: str, kind: str, subchart: Path, folder: Path) -> Chart:
        """Put chart/ and a subchart (folder or archive) together in ``folder``."""
        shutil.copytree(CHART, folder, ignore=shutil.ignore_patterns("charts"))
        (folder / "charts").mkdir()
        if subchart.is_dir():
            shutil.copytree(subchart, folder / "charts" / "jupyterhub")
        else:
            shutil.copy(subchart, folder / "charts")
        return cls(helm, kind, folder)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """helm with these arguments; never raises for its exit code."""
        return subprocess.run(
            [self.helm, *arguments], capture_output=True, text=True, check=False, timeout=_LIMIT_S
        )

    def text(
        self, values: Sequence[str] = (), overrides: Mapping[str, object] | None = None
    ) -> str | Refused:
        """What `helm template` prints for files of values/ and values laid over them."""
        arguments = ["template", "comet", str(self.folder), "--namespace", "comet"]
        arguments += ["--kube-version", _KUBERNETES]
        for name in values:
            arguments += ["--values", str(VALUES / f"{name}.yaml")]
        for key, value in (overrides or {}).items():
            arguments += ["--set-json", f"{key}={json.dumps(value)}"]
        asked = tuple(arguments)
        if asked not in self._rendered:
            result = self.run(*arguments)
            if result.returncode:
                return Refused(result.stderr)
            self._rendered[asked] = result.stdout
        return self._rendered[asked]

    def render(
        self, values: Sequence[str] = (), overrides: Mapping[str, object] | None = None
    ) -> list[Object]:
        """All objects of a render that must succeed."""
        text = self.text(values, overrides)
        assert isinstance(text, str), text
        if text not in self._parsed:
            self._parsed[text] = parse(text)
        return self._parsed[text]

    def evaluate(
        self,
        expressions: Mapping[str, str],
        values: Sequence[str],
        overrides: Mapping[str, object] | None = None,
    ) -> dict[str, str]:
        """What template expressions give in our chart's scope, by name."""
        template = self.folder / "templates" / "evaluate.yaml"
        lines = [f"{name}: {{{{ {text} | toJson }}}}" for name, text in expressions.items()]
        template.write_text("\n".join(lines))
        files = [f"--values={VALUES / name}.yaml" for name in values]
        files += [f"--set-json={k}={json.dumps(v)}" for k, v in (overrides or {}).items()]
        shown = ["--show-only", "templates/evaluate.yaml", "--kube-version", _KUBERNETES]
        result = self.run("template", "comet", str(self.folder), "-n", "comet", *shown, *files)
        template.unlink()
        assert result.returncode == 0, result.stderr
        evaluated: dict[str, str] = yaml.safe_load(result.stdout)
        return evaluated

    def notes(self, values: Sequence[str]) -> str:
        """What helm prints after an install; without a cluster it renders them for nobody."""
        shutil.copy(self.folder / "templates" / "NOTES.txt", self.folder / "notes")
        return self.evaluate({"notes": '(tpl (.Files.Get "notes") .)'}, values)["notes"]

    def refusal(self, values: Sequence[str], overrides: Mapping[str, object]) -> str:
        """The message of a render that must not succeed."""
        text = self.text(values, overrides)
        assert isinstance(text, Refused), f"rendered although {overrides}"
        return text.message


def parse(text: str) -> list[Object]:
    """All objects of a text; the C loader where PyYAML has it, ten times as fast."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return [document for document in yaml.load_all(text, loader) if document]


def one(objects: Sequence[Object], kind: str, name: str) -> Object:
    """The object of that kind and name."""
    found = [o for o in objects if (o["kind"], o["metadata"]["name"]) == (kind, name)]
    assert len(found) == 1, f"{len(found)} of {kind} {name} among {names(objects)}"
    return found[0]


def names(objects: Sequence[Object]) -> list[str]:
    """Kind and name of each object, sorted."""
    return sorted(f"{o['kind']}/{o['metadata']['name']}" for o in objects)


def pods(objects: Sequence[Object]) -> Iterator[tuple[str, Object]]:
    """Kind/name and pod spec of everything that makes pods."""
    for o in objects:
        if o["kind"] in ("Deployment", "StatefulSet", "DaemonSet", "Job"):
            yield f"{o['kind']}/{o['metadata']['name']}", o["spec"]["template"]["spec"]


def own(text: str) -> list[Object]:
    """The objects of a render that come from our own templates."""
    parts = text.split("---\n# Source: ")
    ours = [part for part in parts if part.startswith("jupyterhub-comet/templates/")]
    return parse("\n---\n".join(f"# {part}" for part in ours))
