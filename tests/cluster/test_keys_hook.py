"""The keys hook against a real API server, with exactly the rights that the chart gives it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.cluster.site import run, tool
from tests.lab.components import missing
from tests.lab.waiting import LabBroken
from tests.unit.charts import CHECKOUT, STANDIN, Chart, find_helm, one

pytestmark = pytest.mark.cluster


@dataclass(frozen=True)
class Hook:
    """A namespace of its own with the hook's account, and the program with its arguments."""

    namespace: str
    kubeconfig: Path
    arguments: list[str]

    def kubectl(self, *argv: str, stdin: str | None = None) -> str:
        """kubectl as the operator."""
        return run(tool("kubectl"), "-n", self.namespace, *argv, stdin=stdin)

    def run(self, *more: str) -> subprocess.CompletedProcess[str]:
        """The program, as the account of the hook."""
        program = str(CHECKOUT / "hooks" / "keys.py")
        return subprocess.run(
            [sys.executable, program, *self.arguments, *more],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            env={**os.environ, "KUBECONFIG": str(self.kubeconfig)},
        )

    def secrets(self) -> dict[str, dict[str, str]]:
        """Content of all Secrets, as Kubernetes has it."""
        items = json.loads(self.kubectl("get", "secrets", "-o", "json"))["items"]
        return {item["metadata"]["name"]: item["data"] for item in items}

    def may(self, verb: str, thing: str) -> bool:
        """Whether the account of the hook may do something here."""
        argv = [tool("kubectl"), "-n", self.namespace, "--kubeconfig", str(self.kubeconfig)]
        done = subprocess.run(
            [*argv, "auth", "can-i", verb, thing],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        return done.stdout.strip() == "yes"


def as_account(token: str) -> dict[str, Any]:
    """The operator's kubeconfig with another user's token."""
    config: dict[str, Any] = json.loads(
        run(tool("kubectl"), "config", "view", "--raw", "--minify", "--flatten", "-o", "json")
    )
    name = config["contexts"][0]["context"]["user"]
    return {**config, "users": [{"name": name, "user": {"token": token}}]}


@pytest.fixture
def hook(tmp_path: Path) -> Iterator[Hook]:
    try:
        run(tool("kubectl"), "get", "--raw", "/readyz")
    except LabBroken as exc:
        missing(f"no Kubernetes answers ({exc}): run `make up`")
    namespace = f"comet-keys-{uuid4().hex[:8]}"
    chart = Chart.copy(find_helm(), "standin", STANDIN, tmp_path / "chart")
    objects = chart.render(["demo"])
    run(tool("kubectl"), "create", "namespace", namespace)
    try:
        for kind in ("ServiceAccount", "Role", "RoleBinding"):
            manifest = one(objects, kind, "comet-keys-hook")
            for subject in manifest.get("subjects", []):
                subject["namespace"] = namespace
            run(tool("kubectl"), "-n", namespace, "apply", "-f", "-", stdin=json.dumps(manifest))
        token = run(tool("kubectl"), "-n", namespace, "create", "token", "comet-keys-hook")
        kubeconfig = tmp_path / "kubeconfig"
        kubeconfig.touch(mode=0o600)
        kubeconfig.write_text(json.dumps(as_account(token.strip())))
        job = one(objects, "Job", "comet-keys-hook")
        arguments = job["spec"]["template"]["spec"]["containers"][0]["args"][2:]
        arguments = [a for a in arguments if not a.startswith("--namespace")]
        yield Hook(namespace, kubeconfig, [*arguments, f"--namespace={namespace}"])
    finally:
        run(tool("kubectl"), "delete", "namespace", namespace, "--wait=false")


def test_the_hook_makes_what_is_missing_and_touches_nothing_else(hook: Hook) -> None:
    first = hook.run()
    assert first.returncode == 0, first.stderr
    made = hook.secrets()
    assert len(made) == 6
    for keys in made.values():
        for value in keys.values():
            assert value not in first.stdout + first.stderr

    again = hook.run()
    assert again.returncode == 0, again.stderr
    assert "nothing was changed" in again.stderr
    assert hook.secrets() == made

    gone = {"op": "remove", "path": "/data/hub.services.tunnelbot.apiToken"}
    hook.kubectl("patch", "secret", "comet-hub", "--type=json", "-p", json.dumps([gone]))
    assert hook.run().returncode == 0
    mended = hook.secrets()
    token = mended["comet-hub"].pop("hub.services.tunnelbot.apiToken")
    assert token != made["comet-hub"].pop("hub.services.tunnelbot.apiToken")
    assert mended == made


def test_a_secret_of_somebody_else_is_not_filled(hook: Hook) -> None:
    hook.kubectl("create", "secret", "generic", "comet-hub", "--from-literal=mine=kept")
    refused = hook.run("--check-only=comet-hub")
    assert refused.returncode == 1
    assert "comet-hub lacks hub.config.CryptKeeper.keys" in refused.stderr
    assert set(hook.secrets()) == {"comet-hub"}


def test_a_secret_that_the_role_does_not_name_is_a_clear_refusal(hook: Hook) -> None:
    refused = hook.run("--hub=other")
    assert refused.returncode == 1
    assert "read Secret other: Forbidden; the hook's Role must name it" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_the_account_may_neither_list_nor_delete_nor_look_at_others(hook: Hook) -> None:
    assert hook.may("get", "secret/comet-hub")
    assert hook.may("create", "secrets")
    for verb, thing in (
        ("list", "secrets"),
        ("get", "secret/other"),
        ("delete", "secret/comet-hub"),
        ("update", "secret/comet-hub"),
        ("get", "pods"),
        ("create", "pods"),
    ):
        assert not hook.may(verb, thing), (verb, thing)
