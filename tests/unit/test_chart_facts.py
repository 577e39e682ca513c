"""The list of facts about z2jh: held against the stand-in always, against z2jh where it is at hand.

Our chart relies on the list, and the stand-in is held to the same list: so what works on the
stand-in works on the real chart, as far as the list goes.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.charts import CHECKOUT, Chart, Object, names, one, z2jh_version

pytestmark = pytest.mark.unit

FACTS: dict[str, Any] = json.loads(
    (CHECKOUT / "tests" / "data" / f"z2jh-{z2jh_version()}.json").read_text()
)
CONFIGURATION: dict[str, Any] = FACTS["configuration"]


def differences(expected: Any, found: Any, path: str = "") -> Iterator[str]:
    """Where ``found`` does not hold ``expected``: maps by key, lists by any item that fits."""
    if isinstance(expected, dict):
        if not isinstance(found, dict):
            yield f"{path}: {found!r} is no map"
            return
        for key, value in expected.items():
            if key not in found:
                yield f"{path}.{key} is missing"
            else:
                yield from differences(value, found[key], f"{path}.{key}")
    elif isinstance(expected, list):
        for item in expected:
            fits = (not list(differences(item, candidate)) for candidate in found or [])
            if not any(fits):
                yield f"{path} has no {item!r}"
    elif expected != found:
        yield f"{path} is {found!r}, not {expected!r}"


def of_z2jh(chart: Chart) -> list[Object]:
    """The demo's objects that the subchart made."""
    ours = set(names(chart.render(["demo"]))) - set(FACTS["objects"])
    label = "app.kubernetes.io/name"
    return [
        o
        for o in chart.render(["demo"])
        if f"{o['kind']}/{o['metadata']['name']}" not in ours
        or o["metadata"]["labels"][label] == "jupyterhub"
    ]


@pytest.mark.parametrize("name", FACTS["objects"])
def test_object_holds_what_we_rely_on(chart: Chart, name: str) -> None:
    kind, _, plain = name.partition("/")
    found = one(chart.render(["demo"]), kind, plain)
    assert list(differences(FACTS["objects"][name], found, name)) == []


def test_nothing_else_is_made(chart: Chart) -> None:
    assert names(of_z2jh(chart)) == sorted(FACTS["objects"])


@pytest.mark.parametrize("name", FACTS["keys"])
def test_object_has_the_keys(chart: Chart, name: str) -> None:
    kind, _, plain = name.partition("/")
    assert set(FACTS["keys"][name]) <= set(one(chart.render(["demo"]), kind, plain)["data"])


def test_named_templates_give_the_names(chart: Chart) -> None:
    plain = FACTS["templates"]["plain"]
    scope = ".Subcharts.jupyterhub"
    expressions = {name: f'include "{name}" {scope}' for name in plain}
    labels = '(merge (dict "componentLabel" "hub" "Template" .Template) .Subcharts.jupyterhub)'
    expressions["labels"] = f'include "jupyterhub.matchLabels" {labels}'
    found = chart.evaluate(expressions, ["demo"])
    assert yaml.safe_load(found.pop("labels")) == FACTS["templates"]["matchLabels"]
    assert found == plain


def test_named_templates_follow_the_subchart_without_an_override(chart: Chart) -> None:
    prefixed = FACTS["templates"]["prefixed"]
    expressions = {name: f'include "{name}" .Subcharts.jupyterhub' for name in prefixed}
    override = {"jupyterhub.fullnameOverride": None}
    assert chart.evaluate(expressions, ["demo"], override) == prefixed
    assert "Deployment/comet-jupyterhub-hub" in names(chart.render(["demo"], override))


CHANGES = FACTS["values"]["changes"]


@pytest.mark.parametrize("change", CHANGES, ids=[",".join(c["set"]) for c in CHANGES])
def test_value_reaches_its_object(chart: Chart, change: Mapping[str, Any]) -> None:
    kind, _, plain = change["object"].partition("/")
    found = one(chart.render(["demo"], change["set"]), kind, plain)
    assert list(differences(change["holds"], found, change["object"])) == []


@pytest.mark.parametrize("key", FACTS["values"]["refused"])
def test_unknown_value_is_refused_by_name(chart: Chart, key: str) -> None:
    assert "bogus" in chart.refusal(["demo"], {key: 1})


# Runs a jupyterhub_config.py in a process of its own: folders moved, the Kubernetes client and
# pycurl (which only the hub's image has) as empty modules, everything else real.
RUNNER = """
import json, sys, types
from traitlets.config import Config
from tornado.httpclient import AsyncHTTPClient

root, source = sys.argv[1], open(sys.argv[2]).read()
for name in ("kubernetes_asyncio", "kubernetes_asyncio.client"):
    sys.modules[name] = types.ModuleType(name)
sys.modules["kubernetes_asyncio"].client = sys.modules["kubernetes_asyncio.client"]
chosen = []
AsyncHTTPClient.configure = classmethod(lambda cls, name: chosen.append(name))
c = Config()
seen = {"get_config": lambda: c, "__file__": root + "/jupyterhub_config.py"}
exec(compile(source, "jupyterhub_config.py", "exec"), seen)
with open(sys.argv[3], "w") as result:
    json.dump({"traits": c, "httpClient": chosen[-1]}, result, default=str)
"""


@pytest.fixture(scope="session")
def configuration(chart: Chart, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """What the subchart's own configuration sets, given our values."""
    objects = chart.render(["demo"], CONFIGURATION["overrides"])
    root = tmp_path_factory.mktemp(f"configuration-{chart.kind}")
    for folder, content in (
        (
            "secret",
            {k: base64.b64decode(v) for k, v in one(objects, "Secret", "hub")["data"].items()},
        ),
        ("existing-secret", {k: v.encode() for k, v in CONFIGURATION["existingSecret"].items()}),
        ("config", {k: v.encode() for k, v in one(objects, "ConfigMap", "hub")["data"].items()}),
    ):
        (root / folder).mkdir()
        for name, value in content.items():
            (root / folder / name).write_bytes(value)
    for name, text in one(objects, "ConfigMap", "hub")["data"].items():
        if name.endswith(".py"):
            (root / name).write_text(text.replace("/usr/local/etc/jupyterhub", str(root)))
    # The package's own configure(c) needs mounted keys; here only the order of things matters.
    package = root / "stub" / "jupyterhub_comet"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    lines = "def configure(c):\n    c.JupyterHub.admin_access = 'extraConfig is not sorted'\n"
    (package / "configure.py").write_text(lines)
    result = subprocess.run(
        [
            sys.executable,
            "-c",
            RUNNER,
            str(root),
            str(root / "jupyterhub_config.py"),
            str(root / "result.json"),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=root,
        env=environment(objects, root),
    )
    assert result.returncode == 0, result.stdout + result.stderr
    found: dict[str, Any] = json.loads((root / "result.json").read_text())
    return {**found, "printed": result.stdout}


def environment(objects: list[Object], root: Path) -> dict[str, str]:
    """The hub container's environment, with what Kubernetes adds for the Services."""
    pod = one(objects, "Deployment", "hub")["spec"]["template"]["spec"]
    (hub,) = pod["containers"]
    plain = {e["name"]: e["value"] for e in hub["env"] if "value" in e}
    services = {"HUB_SERVICE_PORT": "8081", "PROXY_API_SERVICE_PORT": "8001"}
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(root / "stub"), **plain, **services}


def test_configuration_sets_what_we_rely_on(configuration: Mapping[str, Any]) -> None:
    expected = CONFIGURATION["traits"]
    assert list(differences(expected, configuration["traits"], "c")) == []
    assert configuration["httpClient"] == CONFIGURATION["httpClient"]


def test_the_gateway_service_has_no_scopes_by_default(configuration: Mapping[str, Any]) -> None:
    roles = configuration["traits"]["JupyterHub"]["load_roles"]
    assert [r["name"] for r in roles if "tunnelbot" in r.get("services", [])] == ["mine"]
