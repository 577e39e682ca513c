"""The chart: what it refuses to render, and whether the message helps."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.unit.charts import Chart

pytestmark = pytest.mark.unit

UNKNOWN_KEYS = {
    "at the top": {"bogus": 1},
    "in conf": {"conf.bogus": 1},
    "in tunnelbot": {"tunnelbot.bogus": 1},
    "in the door": {"tunnelbot.service.bogus": 1},
    "in a cluster": {"clusters.comet.bogus": 1},
    "in a login": {"clusters.comet.login.bogus": 1},
    "in a profile": {"profiles.shared.bogus": 1},
    "in z2jh": {"jupyterhub.hub.bogus": 1},
}


@pytest.mark.parametrize("overrides", UNKNOWN_KEYS.values(), ids=UNKNOWN_KEYS.keys())
def test_an_unknown_key_is_refused_by_name(chart: Chart, overrides: Mapping[str, object]) -> None:
    assert "bogus" in chart.refusal(["demo"], overrides)


BAD_VALUES = {
    "ephemeral port": ({"tunnelbot.portRange.last": 40000}, "portRange/last"),
    "no port": ({"tunnelbot.service.port": 0}, "service/port"),
    "key type": ({"tunnelbot.keyType": "rsa"}, "keyType"),
    "one demo node": ({"demo.nodes": 1}, "demo/nodes"),
    "walltime": ({"profiles.shared.walltime.choices": ["soon"]}, "walltime/choices"),
    "profile name": ({"profiles.Shared": {}}, "Shared"),
    "source range": ({"tunnelbot.service.loadBalancerSourceRanges": {"a": "all"}}, "Ranges/a"),
}


@pytest.mark.parametrize(("overrides", "named"), BAD_VALUES.values(), ids=BAD_VALUES.keys())
def test_a_bad_value_is_refused_by_name(
    chart: Chart, overrides: Mapping[str, object], named: str
) -> None:
    message = chart.refusal(["demo"], overrides)
    # helm 3 writes a JSON pointer, older releases a dotted path.
    assert named in message or named.replace("/", ".") in message


# id: (values file, overrides, what the complaint must say: both values and the fix).
DISAGREEMENTS: dict[str, tuple[str, dict[str, object], list[str]]] = {
    "profile names no cluster": (
        "demo",
        {"profiles.shared.cluster": "other"},
        ["profiles.shared.cluster", '"other"', "clusters are: comet"],
    ),
    "no such default profile": (
        "demo",
        {"defaultProfile": "other"},
        ["defaultProfile", '"other"', "compute, gpu, gpu-shared, shared"],
    ),
    "no clusters": ("demo", {"clusters": None}, ["clusters is empty"]),
    "no profiles": ("demo", {"profiles": None}, ["profiles is empty"]),
    "nothing to dial": ("comet", {"tunnelbot.hostname": ""}, ["tunnelbot.hostname is empty"]),
    "ports the wrong way round": (
        "demo",
        {"tunnelbot.portRange": {"first": 21000, "last": 20000}},
        ["20000", "21000", "swap"],
    ),
    "one port twice": (
        "demo",
        {"tunnelbot.service.extraPorts": {"other": 22}},
        ["extraPorts.other is 22", "service.port"],
    ),
    "no TLS": ("comet", {"jupyterhub.proxy.https.enabled": False}, ["insecure is false", "TLS"]),
    "nobody may log in": (
        "comet",
        {"jupyterhub.hub.config.CILogonOAuthenticator.idps": None},
        ["lets nobody in", "allowed_users"],
    ),
    "named servers are no login rule": (
        "comet",
        {
            "jupyterhub.hub.config.CILogonOAuthenticator.idps": None,
            "jupyterhub.hub.config.JupyterHub.allow_anything": True,
        },
        ["lets nobody in"],
    ),
    "no OAuth client": ("comet", {"conf.clientId": ""}, ["conf.clientId is empty", "CILogon"]),
    "hub takes another Secret": (
        "demo",
        {"jupyterhub.hub.existingSecret": "mine"},
        ['"mine"', '"comet-hub"', "same name"],
    ),
    "renamed CA is not mounted": (
        "demo",
        {"secrets.tunnelCa.name": "mine"},
        ["comet-tunnel-ca", "mine (secrets.tunnelCa.name)", "repeat our three"],
    ),
    "volumes replaced": (
        "demo",
        {"jupyterhub.hub.extraVolumes": []},
        ["(none)", "comet-settings (the settings)"],
    ),
    "mounts replaced": (
        "demo",
        {"jupyterhub.hub.extraVolumeMounts": []},
        ["nothing", "/etc/jupyterhub-comet/tunnel-ca"],
    ),
    "OAuth client of another Secret": (
        "comet",
        {"conf.existingSecret": "mine"},
        ["CILOGON_CLIENT_ID", '"comet-conf"', '"mine"'],
    ),
    "no service for the gateway": (
        "demo",
        {"jupyterhub.hub.services": None},
        ["without tunnelbot", "tunnelbot: {}"],
    ),
    "configure is not called": (
        "demo",
        {"jupyterhub.hub.extraConfig.00-comet": "pass"},
        ["never calls", "00-comet"],
    ),
    "bad starts end the hub": (
        "demo",
        {"jupyterhub.hub.consecutiveFailureLimit": 5},
        ["consecutiveFailureLimit is 5", "Set 0"],
    ),
    "waiting users are refused": (
        "demo",
        {"jupyterhub.hub.concurrentSpawnLimit": 64},
        ["concurrentSpawnLimit is 64", "Set 0"],
    ),
    "database in memory": (
        "demo",
        {"jupyterhub.hub.db.type": "sqlite-memory"},
        ["sqlite-memory", "sqlite-pvc"],
    ),
}


@pytest.mark.parametrize(
    ("values", "overrides", "words"), DISAGREEMENTS.values(), ids=DISAGREEMENTS.keys()
)
def test_values_that_disagree_fail_with_both_and_the_fix(
    chart: Chart, values: str, overrides: Mapping[str, object], words: list[str]
) -> None:
    message = chart.refusal([values], overrides)
    assert "do not fit together" in message
    for word in words:
        assert word in message


def test_all_complaints_are_made_at_once(chart: Chart) -> None:
    message = chart.refusal([], {})
    for key in ("clusters", "profiles", "tunnelbot.hostname", "insecure", "conf.clientId"):
        assert f"- {key} " in message
