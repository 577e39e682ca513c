"""`make up` once more: nothing changes, nobody is disturbed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from . import site as installed

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("base_url")]


def test_second_up_changes_nothing() -> None:
    before = running()
    done = subprocess.run(
        [sys.executable, "-m", "local", "up"],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "install: unchanged" in done.stdout
    assert installed.DEMO_PASSWORD in done.stdout
    assert installed.service_address("proxy-public") in done.stdout
    assert running() == before


def running() -> dict[str, str]:
    """Every container that runs, with the time of its start."""
    pods = json.loads(installed.kubectl("get", "pods", "-o", "json"))["items"]
    return {
        f"{pod['metadata']['name']}/{container['name']}": container["containerID"]
        for pod in pods
        for container in pod["status"].get("containerStatuses", [])
        if "running" in container["state"]
    }
