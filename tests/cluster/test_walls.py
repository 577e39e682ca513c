"""What the chart lets through and what not, and what it refuses to users."""

from __future__ import annotations

import json

import pytest

from tests.lab.hub_api import HubAPI
from tests.lab.waiting import LabBroken

from . import site as installed
from .test_journey import SHARED, ask, start

pytestmark = pytest.mark.cluster


@pytest.mark.usefixtures("tidy")
async def test_T36_plain_pod_reaches_neither_tunnels_nor_hub(site: HubAPI) -> None:
    await start(site, "alice")
    server = await site.server("alice")
    assert server is not None
    port = server["state"]["comet"]["port"]
    pod = installed.pods(installed.TUNNELBOT)[0]
    address = json.loads(installed.kubectl("get", "pod", pod, "-o", "json"))["status"]["podIP"]
    connect = f"import socket; socket.create_connection(({address!r}, {port}), 5)"
    # The tunnel's port is open for those who may: without that, "closed" would prove nothing.
    installed.kubectl("exec", "deploy/hub", "--", "python3", "-c", connect)
    allowed = {"hub.jupyter.org/network-access-hub": "true"}
    assert await reachable(allowed, "hub", [8081]) == [8081]
    assert await reachable({}, "hub", [8081]) == []
    assert await reachable({}, address, [port, 8080, 2222]) == [2222], "only the door is open"
    assert await ask(site, "alice", "print(6 * 7)") == "42"


async def reachable(labels: dict[str, str], host: str, ports: list[int]) -> list[int]:
    """Which ports a pod with those labels can open; the pod is removed afterwards."""
    image = json.loads(installed.kubectl("get", "deploy", "hub", "-o", "json"))["spec"]["template"][
        "spec"
    ]["containers"][0]["image"]
    code = (
        "import socket, sys\n"
        "for port in sys.argv[2:]:\n"
        "    try:\n"
        "        socket.create_connection((sys.argv[1], int(port)), 3).close()\n"
        "        print(port)\n"
        "    except OSError:\n"
        "        pass\n"
    )
    manifest = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "wall-test", "labels": labels},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": {"runAsNonRoot": True, "runAsUser": 1000},
            "containers": [
                {
                    "name": "probe",
                    "image": image,
                    "imagePullPolicy": "IfNotPresent",
                    # A new pod's address takes a moment to be known to the firewall.
                    "command": ["sh", "-c", 'sleep 3; exec python3 -c "$0" "$@"', code],
                    "args": [host, *map(str, ports)],
                }
            ],
        },
    }
    installed.kubectl("delete", "pod", "wall-test", "--ignore-not-found", "--now")
    installed.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))
    try:
        installed.wait_for(
            "the probe pod",
            lambda: installed.kubectl(
                "get", "pod", "wall-test", "-o", "jsonpath={.status.phase}"
            ) in {"Succeeded", "Failed"},
            limit_s=90,
        )  # fmt: skip
        return [int(line) for line in installed.kubectl("logs", "wall-test").split()]
    finally:
        installed.kubectl("delete", "pod", "wall-test", "--now")


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"profile": "huge"}, "profile"),
        ({"profile": "shared", "colour": "red"}, "colour"),
        ({"profile": "shared", "account": "$(id)"}, "account"),
        ({"profile": "shared", "walltime": "99-00:00:00"}, "walltime"),
        ({"profile": "shared", "partition": "secret"}, "partition"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
async def test_bad_option_is_a_400_that_names_it(
    site: HubAPI, options: dict[str, object], field: str
) -> None:
    answer = await site.start_server("alice", options)
    assert answer.status == 400
    assert field in answer.message


@pytest.mark.usefixtures("tidy")
async def test_hub_outlives_ten_refusals(site: HubAPI) -> None:
    (before,) = installed.pods(installed.HUB)
    for _ in range(10):
        await site.start_server("alice", {**SHARED, "account": "nobody9"})
        await site.wait_stopped("alice")
    assert installed.pods(installed.HUB) == [before]
    await start(site, "alice")


@pytest.mark.usefixtures("tidy")
async def test_lost_login_node_is_said_within_30_s(site: HubAPI) -> None:
    # The container ends with its sshd and is started again; meanwhile nothing answers there.
    installed.slurm("pkill", "-x", "sshd")
    installed.wait_for(
        "the login node's end", lambda: not installed.pods(installed.LOGIN, ready=True)
    )
    answer = await site.start_server("alice", SHARED)
    message = answer.message
    if answer.status < 400:
        events = [event async for event in site.progress("alice", limit_s=30)]
        message = events[-1]["message"]
    assert "comet-login" in message
    await site.wait_stopped("alice")
    installed.wait_for(
        "the login node", lambda: bool(installed.pods(installed.LOGIN, ready=True)), limit_s=120
    )
    await start(site, "alice")


async def test_T37_gateway_holds_no_private_ca_and_no_kubernetes_token() -> None:
    def inside(*argv: str) -> str:
        return installed.kubectl("exec", "deploy/tunnelbot", "--", *argv)

    assert sorted(inside("ls", "/etc/tunnelbot/keys").split()) == [
        "ssh_host_key",
        "ssh_host_key-cert.pub",
        "trusted-user-cas",
    ]
    with pytest.raises(LabBroken, match="No such file"):
        inside("ls", "/var/run/secrets/kubernetes.io")
    with pytest.raises(LabBroken, match="Read-only file system"):
        inside("touch", "/etc/tunnelbot/new")


async def test_server_accepts_every_object_of_the_chart() -> None:
    manifest = installed.run(
        installed.tool("helm"), "get", "manifest", "comet", "-n", installed.NAMESPACE
    )
    hooks = installed.run(
        installed.tool("helm"), "get", "hooks", "comet", "-n", installed.NAMESPACE
    )
    answer = installed.kubectl(
        "apply", "--dry-run=server", "-f", "-", stdin=f"{manifest}\n---\n{hooks}"
    )
    assert "tunnelbot" in answer
