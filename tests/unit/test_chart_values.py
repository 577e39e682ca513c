"""values.yaml, its schema, lint.yaml, settings.py and the versions say the same."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from jupyterhub_comet.settings import ClusterSettings, LoginSettings, Profile, SpawnSettings
from local import versions
from tests.unit.charts import CHART, CHECKOUT, STANDIN, VALUES, z2jh_version

pytestmark = pytest.mark.unit

DEFAULTS: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
LINT: dict[str, Any] = yaml.safe_load((VALUES / "lint.yaml").read_text())

# Kubernetes' own words, and maps whose keys are the operator's.
NOT_OURS = {"resources", "loginResources", "nodeResources", "jupyterhub"}


def leaves(values: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted path and value of everything of ours that is no map of our own keys."""
    for key, value in values.items():
        where = f"{path}.{key}" if path else key
        if key == "jupyterhub":
            continue
        if isinstance(value, dict) and value and key not in NOT_OURS:
            yield from leaves(value, where)
        else:
            yield where, value


def look_up(values: Mapping[str, Any], path: str) -> Any:
    found: Any = values
    for key in path.split("."):
        found = found[key]
    return found


def test_a_sentence_stands_above_every_key() -> None:
    lines = (CHART / "values.yaml").read_text().splitlines()
    inside = ""  # the indentation below a block that is not ours
    bare = []
    for above, line in zip(["", *lines], lines, strict=False):
        match = re.match(r"( *)([A-Za-z][\w-]*):", line)
        if match is None or (inside and line.startswith(inside)):
            continue
        inside = f"{match[1]}  " if match[2] in NOT_OURS else ""
        comment = re.match(r" *# (.+)", above)
        if comment is None or not comment[1].rstrip().endswith((".", ":")):
            bare.append(line)
    assert bare == []


def test_lint_values_set_every_key_to_something_else() -> None:
    same = []
    for path, value in leaves(DEFAULTS):
        if look_up(LINT, path) == value and path != "tunnelbot.service.type":
            same.append(path)
    assert same == []


def schema_keys(schema: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for key, below in schema.get("properties", {}).items():
        where = f"{path}.{key}" if path else key
        if "properties" in below and key not in NOT_OURS:
            yield from schema_keys(below, where)
        else:
            yield where


def test_schema_and_values_have_the_same_keys() -> None:
    ours = {path for path in schema_keys(SCHEMA) if path not in ("jupyterhub", "global")}
    # Maps with free keys have no keys of their own in the schema.
    free = ("networkPolicy.dnsServers", "networkPolicy.apiServerPorts")
    given = {next((f for f in free if path.startswith(f)), path) for path, _ in leaves(DEFAULTS)}
    assert given == ours


def descriptions(schema: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for key, below in schema.get("properties", {}).items():
        where = f"{path}.{key}" if path else key
        if "description" not in below and key not in ("requests", "limits", "claims"):
            yield where
        yield from descriptions(below, where)
        if isinstance(below.get("additionalProperties"), dict):
            yield from descriptions(below["additionalProperties"], f"{where}.*")


def test_every_key_of_the_schema_has_a_description() -> None:
    assert list(descriptions(SCHEMA)) == []


CLUSTER = SCHEMA["properties"]["clusters"]["additionalProperties"]
MODELS = {
    "cluster": (CLUSTER, ClusterSettings),
    "login": (CLUSTER["properties"]["login"], LoginSettings),
    "profile": (SCHEMA["properties"]["profiles"]["additionalProperties"], Profile),
    "spawn": (SCHEMA["properties"]["spawn"], SpawnSettings),
}


@pytest.mark.parametrize(("schema", "model"), MODELS.values(), ids=MODELS.keys())
def test_schema_has_the_keys_of_the_settings(
    schema: Mapping[str, Any], model: type[BaseModel]
) -> None:
    assert set(schema["properties"]) == {f.alias for f in model.model_fields.values()}
    required = {f.alias for f in model.model_fields.values() if f.is_required()}
    assert set(schema.get("required", [])) == required


@pytest.mark.parametrize("which", ["cluster", "login", "profile"])
def test_lint_values_set_every_key_of_a(which: str) -> None:
    schema, _ = MODELS[which]
    clusters = list(LINT["clusters"].values())
    given = {
        "cluster": clusters,
        "login": [c["login"] for c in clusters],
        "profile": list(LINT["profiles"].values()),
    }[which]
    assert set().union(*given) == set(schema["properties"])


def test_comet_values_give_the_choices_of_2016() -> None:
    profiles = yaml.safe_load((VALUES / "comet.yaml").read_text())["profiles"]
    assert list(profiles) == ["compute", "shared", "gpu", "gpu-shared"]
    assert profiles["shared"]["cores"]["choices"] == [1, 2, 6, 12]
    for name in ("gpu", "gpu-shared"):
        assert profiles[name]["gpus"]["choices"] == [1, 2, 3, 4]
    for profile in profiles.values():
        assert [c[:2] for c in profile["walltime"]["choices"]] == [
            "01",
            "02",
            "05",
            "08",
            "12",
            "24",
        ]
        assert profile["account"]["default"] == ""


def test_versions_move_together() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["version"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    images = [
        DEFAULTS["tunnelbot"]["image"],
        DEFAULTS["demo"]["image"],
        DEFAULTS["jupyterhub"]["hub"]["image"],
    ]
    assert {chart["version"], chart["appVersion"], *(i["tag"] for i in images)} == {project}
    assert z2jh_version() == versions.Z2JH
    standin = yaml.safe_load((STANDIN / "Chart.yaml").read_text())
    assert standin["version"] == f"{z2jh_version()}+standin"
    assert (CHECKOUT / "tests" / "data" / f"z2jh-{z2jh_version()}.json").is_file()


def test_the_standin_refuses_what_its_values_do_not_have() -> None:
    values = yaml.safe_load((STANDIN / "values.yaml").read_text())
    schema = json.loads((STANDIN / "values.schema.json").read_text())

    def differences(values: Any, schema: Mapping[str, Any], path: str) -> Iterator[str]:
        if "properties" not in schema:
            return
        if set(values) != set(schema["properties"]):
            yield path
        for key, below in schema["properties"].items():
            yield from differences(values[key], below, f"{path}.{key}")

    assert list(differences(values, schema, "jupyterhub")) == []
