"""comet.yaml: good files load, bad ones name the key."""

from pathlib import Path

import pytest
import yaml

from jupyterhub_comet.errors import SettingsBroken
from jupyterhub_comet.settings import SettingsFile, parse_settings, walltime_seconds

pytestmark = pytest.mark.unit

GOOD = """
clusters:
  comet:
    login: {hosts: [login.example.org], knownHosts: "login.example.org ssh-ed25519 AAAA"}
    queryAccount: jhquery
profiles:
  shared:
    title: Shared node
    cluster: comet
    partition: shared
    cores: {choices: [1, 2, 6, 12]}
    walltime: {choices: ["01:00:00", "1-00:00:00"]}
tunnelbot: {hostname: tunnel.example.org}
"""


def test_defaults_are_the_first_choices() -> None:
    profile = parse_settings(GOOD).profiles["shared"]
    assert profile.cores is not None
    assert (profile.cores.default, profile.walltime.default) == (1, "01:00:00")


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("clusters.comet.bogus", 1, "clusters.comet.bogus"),
        ("clusters.comet.login.knownHosts", "", "knownHosts"),
        ("profiles.shared.cluster", "expanse", "profiles.shared.cluster"),
        ("profiles.shared.cores.default", 3, "default 3 is not among"),
        ("profiles.shared.walltime.choices", ["1 hour"], "HH:MM:SS"),
        ("tunnelbot.hostname", "", "tunnelbot.hostname"),
        ("tunnelbot.portRange", {"first": 30000, "last": 20000}, "below first"),
        ("defaultProfile", "gpu", "defaultProfile"),
    ],
    ids=lambda value: value if isinstance(value, str) and "." in value else None,
)
def test_wrong_key_is_named(key: str, value: object, named: str) -> None:
    data = yaml.safe_load(GOOD)
    *folders, last = key.split(".")
    place = data
    for folder in folders:
        place = place[folder]
    place[last] = value
    with pytest.raises(SettingsBroken, match=named):
        parse_settings(yaml.safe_dump(data))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("01:00:00", 3600), ("1-00:00:00", 86400), ("48:00:00", 172800), ("00:00:30", 30)],
)
def test_walltime_in_seconds(text: str, seconds: int) -> None:
    assert walltime_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "1", "1h", "00:00:00", "1:99:00", "-1:00:00"])
def test_no_walltime(text: str) -> None:
    with pytest.raises(ValueError, match="walltime"):
        walltime_seconds(text)


def test_changed_file_is_read_again_and_a_broken_one_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "comet.yaml"
    path.write_text(GOOD)
    file = SettingsFile(path)
    for text, title in [
        (GOOD.replace("Shared node", "Part of a node"), "Part of a node"),
        ("clusters: [", "Part of a node"),
        (GOOD, "Shared node"),
    ]:
        # As Kubernetes does: a new file takes the place of the old one.
        new = tmp_path / "new"
        new.write_text(text)
        new.replace(path)
        assert file.current().profiles["shared"].title == title


def test_missing_file_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(SettingsBroken, match="cannot be read"):
        SettingsFile(tmp_path / "absent.yaml")
