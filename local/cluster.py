"""The steps from an empty machine to a ready node with DNS, NetworkPolicies and addresses."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable
from http import HTTPStatus

from local import binaries, components, containers, network, versions
from local.api import Api, ApiError
from local.archive import ImageConfig
from local.commands import Work, tail
from local.components import Component
from local.errors import LocalError, NotReady
from local.packages import ensure_packages
from local.pki import ensure_pki
from local.places import Places
from local.processes import Daemons
from local.steps import Step

_START_LIMIT_S = 120.0
_KUBELET_HEALTH_PORT = 10248  # on the loopback interface
_PROGRAMS = (
    binaries.KUBE,
    binaries.HELM,
    binaries.KUBE_ROUTER,
    binaries.COREDNS,
    binaries.PAUSE,
)
DNS_READY = "cluster DNS"
NODE_READY = "node"
CONTAINERD_READY = "containerd"
API_READY = "control plane"
PACKAGES = "packages"


def build_step_name(program: binaries.Program) -> str:
    """Name of the step that builds a program."""
    return f"build {program.name}"


class Cluster:
    """A one-node Kubernetes of our own in one state folder."""

    def __init__(self, places: Places) -> None:
        self.places = places
        self.daemons = Daemons(places.records, places.logs)

    def steps(self, *, own_images: bool) -> list[Step]:
        """All steps in an order that Steps.run accepts; what is done already takes no time."""
        kube, pause, coredns = map(
            build_step_name, (binaries.KUBE, binaries.PAUSE, binaries.COREDNS)
        )
        router = build_step_name(binaries.KUBE_ROUTER)
        return [
            Step(PACKAGES, lambda work: ensure_packages(work, own_images=own_images)),
            Step("keys", lambda work: ensure_pki(self.places, work), (PACKAGES,)),
            Step("network", lambda work: network.ensure_network(self.places, work), (PACKAGES,)),
            Step(CONTAINERD_READY, self._containerd, (PACKAGES,)),
            *(self._build_step(program) for program in _PROGRAMS),
            Step(API_READY, self._control_plane, ("keys", "network", kube)),
            Step("pause image", self._pause_image, (CONTAINERD_READY, pause)),
            Step("DNS image", self._dns_image, (CONTAINERD_READY, coredns)),
            Step(NODE_READY, self._node, (API_READY, "pause image", router)),
            Step(DNS_READY, self._dns, (NODE_READY, "DNS image")),
        ]

    def api(self) -> Api:
        """Return a client with all rights. Raises OSError while there is no cluster."""
        return Api(self.places.keys, "admin")

    def is_ready(self) -> bool:
        """Whether the API server answers; nothing is waited for."""
        try:
            return self.api().is_ready()
        except OSError:
            return False

    def kubectl(self) -> list[str]:
        """Start of a kubectl command line for this cluster."""
        return [str(self.places.binaries / "kubectl"), "--kubeconfig", str(self.places.kubeconfig)]

    def _build_step(self, program: binaries.Program) -> Step:
        return Step(
            build_step_name(program),
            lambda work: binaries.ensure_program(self.places, program, work),
            (PACKAGES,),
        )

    def _containerd(self, work: Work) -> str:
        components.write_configuration(self.places)
        started = components.containerd(self.places).ensure(self.daemons)
        self._wait(work, "containerd", lambda: containers.is_answering(self.places))
        return "started" if started else "running"

    def _control_plane(self, work: Work) -> str:
        kube = binaries.program_path(self.places, binaries.KUBE)
        started = [components.etcd(self.places).ensure(self.daemons)]
        server = components.apiserver(self.places, kube)
        started.append(server.ensure(self.daemons))
        self._wait(work, server.name, self.api().is_ready)
        started += [
            components.controller_manager(self.places, kube).ensure(self.daemons),
            components.scheduler(self.places, kube).ensure(self.daemons),
        ]
        manifest = self.places.configuration / "system.yaml"
        work.run([*self.kubectl(), "apply", "--server-side", "--filename", str(manifest)])
        return _count(started)

    def _node(self, work: Work) -> str:
        kube = binaries.program_path(self.places, binaries.KUBE)
        router = binaries.program_path(self.places, binaries.KUBE_ROUTER)
        agent = components.kubelet(self.places, kube)
        proxy = components.kube_proxy(self.places, kube)
        parts = [agent, proxy, components.controller(self.places)]
        started = [component.ensure(self.daemons) for component in parts]
        self._wait(work, agent.name, self._node_is_ready)
        # kube-router ends at once where the API does not know its node yet.
        policies = components.kube_router(self.places, router)
        started.append(policies.ensure(self.daemons))
        parts.append(policies)
        self._check_alive(parts)
        return _count(started)

    def _node_is_ready(self) -> bool:
        # The API may still have the word of a kubelet that was killed: ask the living one too.
        connection = http.client.HTTPConnection("127.0.0.1", _KUBELET_HEALTH_PORT, timeout=5)
        try:
            connection.request("GET", "/healthz")
            if connection.getresponse().status != HTTPStatus.OK:
                return False
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
        try:
            node = self.api().get(f"/api/v1/nodes/{versions.NODE}")
        except ApiError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return False
            raise
        conditions = node.get("status", {}).get("conditions", [])
        return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)

    def _pause_image(self, work: Work) -> str:
        config = ImageConfig(containers.MACHINE, entrypoint=["/pause"], user="65535:65535")
        return containers.ensure_program_image(
            self.places, work, binaries.PAUSE, versions.PAUSE_IMAGE, config
        )

    def _dns_image(self, work: Work) -> str:
        config = ImageConfig(containers.MACHINE, entrypoint=["/coredns"])
        return containers.ensure_program_image(
            self.places, work, binaries.COREDNS, versions.COREDNS_IMAGE, config
        )

    def _dns(self, work: Work) -> str:
        argv = [*self.kubectl(), "--namespace", "kube-system", "rollout", "status"]
        work.run([*argv, "deployment/coredns", "--timeout=90s"], limit_s=_START_LIMIT_S)
        return "answers"

    def _wait(self, work: Work, daemon: str, is_ready: Callable[[], bool]) -> None:
        """Ask until a daemon is ready. Raises NotReady at once when it has ended."""
        deadline = time.monotonic() + _START_LIMIT_S
        log = self.daemons.log(daemon)
        while not is_ready():
            record = self.daemons.find(daemon)
            if record is None or not record.is_alive():
                work.say(tail(log))
                raise NotReady(f"{daemon} ended by itself; its log is {log}")
            if time.monotonic() > deadline:
                work.say(tail(log))
                raise NotReady(
                    f"{daemon} was not ready after {_START_LIMIT_S:.0f} s; its log is {log}"
                )
            work.wait(0.2)

    def _check_alive(self, parts: list[Component]) -> None:
        for part in parts:
            record = self.daemons.find(part.name)
            if record is None or not record.is_alive():
                log = self.daemons.log(part.name)
                raise LocalError(f"{part.name} ended by itself; its log is {log}:\n{tail(log)}")


def _count(started: list[bool]) -> str:
    return f"{sum(started)} started" if any(started) else "running"
