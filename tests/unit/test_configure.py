"""configure(c): what it sets, what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from traitlets.config import Config

from jupyterhub_comet.configure import configure
from jupyterhub_comet.context import context
from jupyterhub_comet.errors import SettingsBroken

from .test_settings import GOOD

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    path = tmp_path / "comet.yaml"
    path.write_text(GOOD)
    monkeypatch.setenv("COMET_SETTINGS", str(path))
    context.cache_clear()
    yield
    context.cache_clear()


@pytest.fixture
def c() -> Config:
    """The hub's configuration as z2jh leaves it before extraConfig runs."""
    c = Config()
    c.JupyterHub.services = [{"name": "tunnelbot"}]
    c.JupyterHub.tornado_settings = {"slow_spawn_timeout": 0, "headers": {"X-Site": "here"}}
    c.JupyterHub.concurrent_spawn_limit = 64
    c.Spawner.consecutive_failure_limit = 5
    return c


def test_nothing_of_z2jh_that_ends_servers_is_left(c: Config) -> None:
    configure(c)
    assert c.JupyterHub.concurrent_spawn_limit == 0
    assert c.Spawner.consecutive_failure_limit == 0
    assert c.JupyterHub.cleanup_servers is False
    assert c.Spawner.start_timeout > 86400
    assert c.JupyterHub.tornado_settings == {
        "slow_spawn_timeout": 2,
        "headers": {"X-Site": "here"},
    }


@pytest.mark.parametrize(
    ("owner", "trait"),
    [
        ("SlurmSpawner", "batch_script"),
        ("BatchSpawnerBase", "exec_prefix"),
        ("CometSpawner", "state_running_re"),
        ("SlurmSpawner", "batch_query_cmd"),
    ],
)
def test_setting_that_would_be_ignored_stops_the_start(c: Config, owner: str, trait: str) -> None:
    c[owner][trait] = "anything"
    with pytest.raises(SettingsBroken, match=rf"c\.{owner}\.{trait} would be ignored"):
        configure(c)


def test_defaults_of_batchspawner_are_taken(c: Config) -> None:
    c.SlurmSpawner.req_partition = "shared"
    configure(c)


def test_missing_service_stops_the_start(c: Config) -> None:
    c.JupyterHub.services = [{"name": "cull"}]
    with pytest.raises(SettingsBroken, match="no service named 'tunnelbot'"):
        configure(c)
