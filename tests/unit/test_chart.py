"""The chart: what it renders, what it refuses, and that values, schema and settings agree."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml

from jupyterhub_comet.settings import parse_settings
from jupyterhub_comet.tunnelbot.settings import GatewaySettings
from tests.unit.charts import CHECKOUT, VALUES, VALUES_FILES, Chart, names, one, own, pods

pytestmark = pytest.mark.unit

SNAPSHOT = CHECKOUT / "tests" / "data" / "chart-demo.yaml"

# A Secret with random material is the keys hook's; none may come from a template.
RANDOM_SECRETS = {"comet-tunnel-ca", "comet-host-ca", "tunnelbot", "comet-login", "comet-hub"}


@pytest.mark.parametrize("values", VALUES_FILES)
def test_every_values_file_passes_helm_lint(chart: Chart, values: str) -> None:
    result = chart.run("lint", "--strict", str(chart.folder), "-f", str(VALUES / f"{values}.yaml"))
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("values", VALUES_FILES)
def test_every_values_file_renders_settings_that_load(chart: Chart, values: str) -> None:
    secret = one(chart.render([values]), "Secret", "comet-settings")
    parse_settings(secret["stringData"]["comet.yaml"], values)


@pytest.mark.parametrize("values", VALUES_FILES)
def test_every_values_file_renders_a_gateway_that_agrees_with_the_settings(
    chart: Chart, values: str
) -> None:
    objects = chart.render([values])
    text = one(objects, "ConfigMap", "tunnelbot")["data"]["tunnelbot.yaml"]
    data = yaml.safe_load(text)
    gateway = GatewaySettings.model_validate({**data, "address": "10.0.0.1"})  # POD_IP in the pod
    settings = parse_settings(one(objects, "Secret", "comet-settings")["stringData"]["comet.yaml"])
    assert gateway.port_range.first == settings.tunnelbot.port_range.first
    assert gateway.port_range.last == settings.tunnelbot.port_range.last
    assert (gateway.listen.port, gateway.admin.port) == (2222, 8080)


def test_settings_keep_numbers_and_walltimes_as_they_are(chart: Chart) -> None:
    secret = one(chart.render(["lint"]), "Secret", "comet-settings")
    settings = parse_settings(secret["stringData"]["comet.yaml"])
    profile = settings.profiles["lint"]
    assert profile.memory_mb == 2048000  # a float in YAML would print as 2.048e+06
    assert profile.walltime.choices == ["12:00:00", "1-00:00:00"]  # YAML 1.1 reads a base-60 int
    assert settings.tunnelbot.hostname == "tunnelbot.lint.example.org"
    assert settings.tunnelbot.port == 443
    assert settings.tunnelbot.port_range.first == 21000
    assert settings.spawn.servers_per_user == 3
    assert settings.accounts == {"lint": "lint123"}


def test_null_takes_a_setting_back_to_its_default(chart: Chart) -> None:
    overrides = {"clusters.comet.graceSeconds": None, "profiles.shared.cores": None}
    secret = one(chart.render(["demo"], overrides), "Secret", "comet-settings")
    settings = parse_settings(secret["stringData"]["comet.yaml"])
    assert settings.clusters["comet"].grace_seconds == 60
    assert settings.profiles["shared"].cores is None


def test_demo_jobs_dial_the_service_of_the_gateway(chart: Chart) -> None:
    secret = one(chart.render(["demo"]), "Secret", "comet-settings")
    settings = parse_settings(secret["stringData"]["comet.yaml"])
    assert settings.tunnelbot.hostname == "tunnelbot.comet.svc"
    assert settings.tunnelbot.port == 22


OTHER_NAMES = {
    "secrets.tunnelCa.name": "mine",
    "jupyterhub.hub.extraVolumes": [
        {"name": "comet-settings", "secret": {"secretName": "comet-settings"}},
        {"name": "comet-tunnel-ca", "secret": {"secretName": "mine"}},
        {"name": "comet-login", "secret": {"secretName": "comet-login"}},
    ],
}


def test_a_secret_may_have_another_name_where_both_sides_say_so(chart: Chart) -> None:
    objects = chart.render(["demo"], OTHER_NAMES)
    role = one(objects, "Role", "comet-keys-hook")
    assert "mine" in role["rules"][0]["resourceNames"]


def restricted(name: str, pod: Mapping[str, Any]) -> Iterator[str]:
    """What keeps a pod from Pod Security's profile "restricted"."""
    outer = pod.get("securityContext") or {}
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(key):
            yield f"{name}: {key}"
    for volume in pod.get("volumes") or []:
        if not {"configMap", "secret", "emptyDir", "persistentVolumeClaim"} & set(volume):
            yield f"{name}: volume {volume}"
    for container in [*pod["containers"], *(pod.get("initContainers") or [])]:
        inner = {**outer, **(container.get("securityContext") or {})}
        if inner.get("runAsNonRoot") is not True or inner.get("runAsUser") == 0:
            yield f"{name}: may run as root"
        if inner.get("allowPrivilegeEscalation") is not False:
            yield f"{name}: may gain privileges"
        if (inner.get("capabilities") or {}).get("drop") != ["ALL"]:
            yield f"{name}: keeps capabilities"
        if (inner.get("seccompProfile") or {}).get("type") != "RuntimeDefault":
            yield f"{name}: has no seccomp profile"


def test_all_pods_but_the_demo_cluster_meet_pod_security_restricted(chart: Chart) -> None:
    found = [
        complaint
        for name, pod in pods(chart.render(["demo"]))
        if name not in ("Deployment/comet-login", "StatefulSet/comet-node")
        for complaint in restricted(name, pod)
    ]
    assert found == []


def test_only_the_hook_has_a_token_of_kubernetes(chart: Chart) -> None:
    with_token = [
        name
        for name, pod in pods(chart.render(["demo"]))
        if pod.get("automountServiceAccountToken") is not False
    ]
    assert with_token == ["Job/comet-keys-hook"]


def test_hub_and_proxy_have_no_rights_in_the_namespace(chart: Chart) -> None:
    objects = chart.render(["comet"])
    rights = [n for n in names(objects) if n.startswith(("Role", "ClusterRole"))]
    # autohttps (letsencrypt) keeps its own certificate in a Secret.
    expected = ["Role/comet-keys-hook", "RoleBinding/comet-keys-hook"]
    assert [n for n in rights if "autohttps" not in n] == expected


def test_the_gateway_mounts_no_private_ca_and_a_read_only_root(chart: Chart) -> None:
    pod = one(chart.render(["demo"]), "Deployment", "tunnelbot")["spec"]["template"]["spec"]
    secrets = {v["name"]: v["secret"] for v in pod["volumes"] if "secret" in v}
    assert {s["secretName"] for s in secrets.values()} == {"tunnelbot", "comet-hub"}
    assert [i["key"] for i in secrets["token"]["items"]] == ["hub.services.tunnelbot.apiToken"]
    (container,) = pod["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    writable = {m["mountPath"] for m in container["volumeMounts"] if not m.get("readOnly")}
    assert writable == {"/tmp", "/var/lib/tunnelbot"}
    assert pod["terminationGracePeriodSeconds"] == 45


def test_the_demo_login_node_gets_only_the_public_half_of_the_login_ca(chart: Chart) -> None:
    pod = one(chart.render(["demo"]), "Deployment", "comet-login")["spec"]["template"]["spec"]
    (volume,) = (v for v in pod["volumes"] if v["name"] == "login-ca")
    assert volume["secret"]["items"] == [{"key": "ca.pub", "path": "ca.pub"}]


@pytest.mark.parametrize("values", VALUES_FILES)
def test_no_random_secret_and_no_key_is_rendered(chart: Chart, values: str) -> None:
    text = chart.text([values])
    assert isinstance(text, str)
    assert "PRIVATE KEY" not in text
    secrets = {n.split("/")[1] for n in names(chart.render([values])) if n.startswith("Secret/")}
    assert not secrets & RANDOM_SECRETS


def test_the_hook_is_made_of_hooks_only_and_counts_its_rights(chart: Chart) -> None:
    objects = chart.render(["demo"])
    kinds = ("Job", "Role", "RoleBinding", "ServiceAccount", "NetworkPolicy")
    for kind in kinds:
        notes = one(objects, kind, "comet-keys-hook")["metadata"]["annotations"]
        assert notes["helm.sh/hook"] == "pre-install,pre-upgrade"
        assert notes["helm.sh/hook-delete-policy"] == "before-hook-creation,hook-succeeded"
    role = one(objects, "Role", "comet-keys-hook")
    named, unnamed = role["rules"]
    assert set(named["resourceNames"]) == RANDOM_SECRETS | {"comet-demo"}
    assert named["verbs"] == ["get", "patch"]
    assert unnamed["verbs"] == ["create"]
    assert named["resources"] == unnamed["resources"] == ["secrets"]


def test_without_the_demo_nothing_of_it_is_there(chart: Chart) -> None:
    objects = chart.render(["comet"])
    assert not [n for n in names(objects) if n.endswith(("comet-node", "/comet-demo"))]
    job = one(objects, "Job", "comet-keys-hook")
    args = job["spec"]["template"]["spec"]["containers"][0]["args"]
    assert not [a for a in args if a.startswith("--demo")]


def test_the_hub_sees_no_oauth_client_where_none_is_set(chart: Chart) -> None:
    assert not one(chart.render(["demo"]), "Secret", "comet-conf").get("stringData")
    data = one(chart.render(["comet"]), "Secret", "comet-conf")["stringData"]
    assert data["callback-url"] == "https://jupyterhub.example.org/hub/oauth_callback"


def test_the_callback_follows_the_base_url(chart: Chart) -> None:
    objects = chart.render(["comet"], {"jupyterhub.hub.baseUrl": "/jupyter/"})
    data = one(objects, "Secret", "comet-conf")["stringData"]
    assert data["callback-url"] == "https://jupyterhub.example.org/jupyter/hub/oauth_callback"
    config = yaml.safe_load(one(objects, "ConfigMap", "tunnelbot")["data"]["tunnelbot.yaml"])
    assert config["hub"]["apiUrl"] == "http://hub:8081/jupyter/hub/api"


HUB = {"component": "hub", "app": "jupyterhub", "release": "comet"}
PROXY = {"component": "proxy", "app": "jupyterhub", "release": "comet"}


def component(name: str) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "jupyterhub-comet",
        "app.kubernetes.io/instance": "comet",
        "app.kubernetes.io/component": name,
    }


def arrows(policy: Mapping[str, Any], direction: str) -> list[tuple[list[Any], list[Any]]]:
    """(ports, peers) of each rule of a policy: peers are pod labels, or whatever else is there."""
    side = "from" if direction == "ingress" else "to"
    return [
        (
            [p["port"] for p in rule.get("ports", [])],
            [
                p["podSelector"]["matchLabels"] if "podSelector" in p else p
                for p in rule.get(side, [])
            ],
        )
        for rule in policy["spec"].get(direction) or []
    ]


def test_listen_ports_are_for_hub_and_proxy_only(chart: Chart) -> None:
    objects = chart.render(["demo"])
    policy = one(objects, "NetworkPolicy", "tunnelbot")
    assert policy["spec"]["podSelector"]["matchLabels"] == component("tunnelbot")
    door, listeners = arrows(policy, "ingress")
    assert door == ([2222], [])
    assert listeners == ([20000], [HUB, PROXY])
    assert policy["spec"]["ingress"][1]["ports"][0]["endPort"] == 29999
    for name, labels in (("hub", HUB), ("proxy", PROXY)):
        way_out = one(objects, "NetworkPolicy", f"{name}-to-tunnelbot")
        assert way_out["spec"]["podSelector"]["matchLabels"] == labels
        assert arrows(way_out, "egress")[0] == ([20000], [component("tunnelbot")])


def test_the_gateway_reaches_the_hub_and_dns_only(chart: Chart) -> None:
    policy = one(chart.render(["demo"]), "NetworkPolicy", "tunnelbot")
    assert sorted(policy["spec"]["policyTypes"]) == ["Egress", "Ingress"]
    hub, dns = arrows(policy, "egress")
    assert hub == ([8081], [HUB])
    assert dns[0] == [53, 53]


def test_networks_and_ports_of_policies_come_from_the_values(chart: Chart) -> None:
    on = {"networkPolicy.enabled": True, "hooks.keys.enabled": True}
    policy = one(chart.render(["lint"], on), "NetworkPolicy", "comet-keys-hook")
    api, dns = arrows(policy, "egress")
    assert sorted(api[0]) == [8443, 16443]
    assert [p["ipBlock"]["cidr"] for p in dns[1] if "ipBlock" in p] == ["192.0.2.53/32"]
    assert policy["spec"]["ingress"] == []


def test_a_compute_node_reaches_of_kubernetes_only_the_door(chart: Chart) -> None:
    policy = one(chart.render(["demo"]), "NetworkPolicy", "comet-node")
    reached = [
        (ports, peer)
        for ports, peers in arrows(policy, "egress")
        for peer in peers
        if ports[0] != 53
    ]
    assert ([2222], component("tunnelbot")) in reached
    assert {p["app.kubernetes.io/component"] for _, p in reached} == {
        "tunnelbot",
        "demo-login",
        "demo-node",
    }


def test_our_policies_do_not_lock_in_a_hub_that_has_none(chart: Chart) -> None:
    off = {"jupyterhub.hub.networkPolicy.enabled": False}
    assert "NetworkPolicy/hub-to-tunnelbot" not in names(chart.render(["demo"], off))


def test_the_door_has_all_its_values(chart: Chart) -> None:
    spec = one(chart.render(["lint"]), "Service", "tunnelbot")["spec"]
    assert spec["type"] == "LoadBalancer"
    assert {p["name"]: p["port"] for p in spec["ports"]} == {"ssh": 2022, "https": 443}
    assert spec["loadBalancerSourceRanges"] == ["192.0.2.0/24"]
    assert spec["externalTrafficPolicy"] == "Cluster"
    assert spec["loadBalancerIP"] == "192.0.2.1"
    assert spec["loadBalancerClass"] == "lint.example.org/balancer"


def test_a_door_inside_the_cluster_has_nothing_of_a_load_balancer(chart: Chart) -> None:
    objects = chart.render(["lint"], {"tunnelbot.service.type": "ClusterIP"})
    spec = one(objects, "Service", "tunnelbot")["spec"]
    assert set(spec) == {"type", "selector", "ports"}


def test_notes_tell_where_to_log_in_and_warn_of_the_standin(chart: Chart) -> None:
    notes = chart.notes(["comet"])
    assert "https://jupyterhub.example.org" in notes
    assert "TrustedUserCAKeys" in notes
    assert ("stand-in" in notes) == (chart.kind == "standin")


def test_our_part_of_the_demo_is_as_it_was(chart: Chart) -> None:
    """A change must be looked at: write the snapshot anew with SNAPSHOT=write."""
    text = chart.text(["demo"])
    assert isinstance(text, str)
    ours = yaml.safe_dump_all(own(text), sort_keys=False, width=100)
    ours = re.sub(r"(checksum/config: )\w+", r"\1...", ours)
    if os.environ.get("SNAPSHOT") == "write":
        SNAPSHOT.write_text(ours)
    assert ours == SNAPSHOT.read_text()
