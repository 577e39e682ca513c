"""The one-machine Kubernetes itself: DNS, NetworkPolicies, addresses, volumes, and no way out."""

from __future__ import annotations

import json
import os
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from local import versions
from local.places import Places

pytestmark = pytest.mark.cluster

_SERVER = (
    "use IO::Socket::INET; my $s = IO::Socket::INET->new(LocalPort => 8080, Listen => 5,"
    " ReuseAddr => 1) or die; while (my $c = $s->accept) { print $c $c->peerhost; close $c }"
)
_PLACES = Places.from_environment()


def kubectl(*arguments: str, stdin: str | None = None, check: bool = True) -> str:
    argv = [str(_PLACES.binaries / "kubectl"), "--kubeconfig", str(_PLACES.kubeconfig), *arguments]
    done = subprocess.run(
        argv, input=stdin, capture_output=True, text=True, timeout=90, check=False
    )
    if check:
        assert done.returncode == 0, done.stderr
    return done.stdout


def until(condition: Callable[[], bool], limit_s: float = 20.0) -> bool:
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.2)
    return False


@pytest.fixture(scope="module")
def namespace() -> Iterator[str]:
    """A namespace with a server pod behind Services, a friend and a stranger."""
    if not _PLACES.kubeconfig.exists():
        if os.environ.get("CI"):
            pytest.fail("the local cluster is not up")
        pytest.skip("no local cluster: make up LOCAL=1")
    name = f"lab-{uuid.uuid4().hex[:8]}"
    kubectl("create", "namespace", name)
    try:
        kubectl("--namespace", name, "apply", "--filename", "-", stdin=_objects())
        kubectl(
            "--namespace", name, "wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s"
        )
        yield name
    finally:
        kubectl("delete", "namespace", name, "--wait=true", "--timeout=80s", check=False)


def _objects() -> str:
    pods = {
        "server": ["perl", "-e", _SERVER],
        "friend": ["sleep", "600"],
        "stranger": ["sleep", "600"],
    }
    items: list[dict[str, object]] = [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": {"app": name}},
            "spec": {
                "terminationGracePeriodSeconds": 0,
                "containers": [
                    {
                        "name": name,
                        "image": versions.DEBIAN_IMAGE,
                        "imagePullPolicy": "Never",
                        "command": command,
                    }
                ],
            },
        }
        for name, command in pods.items()
    ]
    service = {"selector": {"app": "server"}, "ports": [{"port": 80, "targetPort": 8080}]}
    for name, extra in (
        ("server", {}),
        ("door", {"type": "LoadBalancer"}),
        ("fixed", {"type": "LoadBalancer", "loadBalancerIP": "10.250.0.77"}),
        ("outside", {"type": "LoadBalancer", "loadBalancerIP": "192.0.2.1"}),
    ):
        spec = {**service, **extra}
        items.append(
            {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}
        )
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})


def ask_from(namespace: str, pod: str, host: str, port: int = 80) -> str:
    """Connect from a pod and return what the other side says; "" when it does not answer in 3 s."""
    script = f"exec 3<>/dev/tcp/{host}/{port} && cat <&3"
    argv = ["--namespace", namespace, "exec", pod, "--", "timeout", "3", "bash", "-c", script]
    return kubectl(*argv, check=False)


def address_of(namespace: str, service: str) -> str:
    path = "jsonpath={.status.loadBalancer.ingress[0].ip}"
    return kubectl("--namespace", namespace, "get", "service", service, "--output", path)


def test_pods_resolve_services_and_nothing_outside(namespace: str) -> None:
    assert until(lambda: ask_from(namespace, "friend", "server") != "")
    assert ask_from(namespace, "friend", f"server.{namespace}.svc.cluster.local")
    script = "getent hosts example.com; echo status $?"
    answer = kubectl("--namespace", namespace, "exec", "friend", "--", "bash", "-c", script)
    assert answer == "status 2\n"


def test_load_balancer_address_answers_to_machine_and_pods(namespace: str) -> None:
    assert until(lambda: address_of(namespace, "door").startswith("10.250.0."))
    address = address_of(namespace, "door")
    assert until(lambda: ask_from(namespace, "friend", address) != "")
    argv = ["bash", "-c", f"exec 3<>/dev/tcp/{address}/80 && cat <&3"]
    assert until(lambda: subprocess.run(argv, capture_output=True, timeout=10).returncode == 0)


def test_requested_address_is_given_and_an_impossible_one_is_not(namespace: str) -> None:
    assert until(lambda: address_of(namespace, "fixed") == "10.250.0.77")
    assert address_of(namespace, "outside") == ""


def test_network_policy_lets_the_friend_in_and_the_stranger_not(namespace: str) -> None:
    assert until(lambda: ask_from(namespace, "stranger", "server") != "")
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "friends"},
        "spec": {
            "podSelector": {"matchLabels": {"app": "server"}},
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "friend"}}}]}],
        },
    }
    kubectl("--namespace", namespace, "apply", "--filename", "-", stdin=json.dumps(policy))
    assert until(lambda: ask_from(namespace, "stranger", "server") == "")
    assert until(lambda: ask_from(namespace, "friend", "server") != "")
    kubectl("--namespace", namespace, "delete", "networkpolicy", "friends")
    assert until(lambda: ask_from(namespace, "stranger", "server") != "")


@pytest.mark.parametrize("address", ["192.0.2.1", "10.96.77.77", "10.250.0.250"])
def test_pod_reaches_nothing_outside_this_machine(namespace: str, address: str) -> None:
    script = f"exec 3<>/dev/tcp/{address}/443 && echo reached; echo tried"
    argv = ["--namespace", namespace, "exec", "friend", "--", "timeout", "5", "bash", "-c", script]
    assert kubectl(*argv, check=False).strip() in ("tried", "")


def test_volume_is_a_folder_of_the_hubs_user_and_goes_with_its_claim(namespace: str) -> None:
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    kubectl("--namespace", namespace, "apply", "--filename", "-", stdin=json.dumps(claim))
    get = [
        "--namespace",
        namespace,
        "get",
        "pvc",
        "data",
        "--output",
        "jsonpath={.spec.volumeName}",
    ]
    assert until(lambda: kubectl(*get) != "")
    folder = Path(_PLACES.volumes / kubectl(*get))
    assert folder.stat().st_uid == versions.STORAGE_OWNER
    kubectl("--namespace", namespace, "delete", "pvc", "data")
    assert until(lambda: not folder.exists())
