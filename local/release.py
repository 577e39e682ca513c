"""Our chart, installed with Helm: done again only when something that matters has changed."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from local import versions
from local.binaries import hash_files
from local.commands import Work, ask
from local.errors import CommandFailed, LocalError, NotReady
from local.places import Places
from local.subchart import STANDIN_NOTICE, Subchart, provide, wanted_version

_INSTALL_LIMIT_S = 600
_ADDRESS_LIMIT_S = 60.0
# Values that hold the images; each is an object with name and tag.
IMAGE_KEYS = {"hub": "jupyterhub.hub.image", "tunnelbot": "tunnelbot.image", "slurm": "demo.image"}
VALUES = "values/demo.yaml"
# Values that only our own cluster can know.
OWN_CLUSTER = {
    "jupyterhub.proxy.service.loadBalancerIP": versions.HUB_ADDRESS,
    "tunnelbot.service.loadBalancerIP": versions.GATEWAY_ADDRESS,
    "tunnelbot.hostname": versions.GATEWAY_ADDRESS,
}
LOGIN = "alice or bob (administrator: admin), password demo"


@dataclass(frozen=True)
class Tools:
    """helm and kubectl with the arguments that choose the cluster."""

    helm: Sequence[str]
    kubectl: Sequence[str]


class Release:
    """The release comet in namespace comet of one cluster; `values` go on top of demo.yaml."""

    def __init__(
        self, places: Places, tools: Tools, values: Mapping[str, str] | None = None
    ) -> None:
        self.places = places
        self.tools = tools
        self.values = values or {}
        self.subchart: Subchart | None = None
        self._chart = places.state / "chart"
        self._record = places.state / "release.json"

    def prepare(self, work: Work) -> str:
        """Make the copy of the chart with z2jh in it."""
        self.subchart = provide(
            work,
            helm=self.tools.helm[0],
            chart=self.places.repository / "chart",
            standin=self.places.repository / "local" / "z2jh",
            target=self._chart,
            environment=os.environ,
        )
        return f"z2jh {self.subchart.version} ({self.subchart.origin})"

    def notice(self) -> str:
        """Return the loud notice where the stand-in is used, else nothing."""
        if self.subchart is None or not self.subchart.is_standin:
            return ""
        real = wanted_version(self._chart)
        return STANDIN_NOTICE.format(version=self.subchart.version, real=real)

    def install(self, work: Work, images: Mapping[str, str]) -> str:
        """Install or upgrade; images are names with tag by "hub", "tunnelbot", "slurm"."""
        fingerprint = self._fingerprint(images)
        if self._is_installed(fingerprint):
            self.wait_ready(work)
            return "unchanged"
        self._unlock(work)
        argv = [*self.tools.helm, "upgrade", "--install", versions.RELEASE, str(self._chart)]
        argv += ["--namespace", versions.NAMESPACE, "--create-namespace"]
        argv += ["--values", str(self.places.repository / VALUES)]
        for which, image in images.items():
            name, _, tag = image.rpartition(":")
            argv += ["--set-string", f"{IMAGE_KEYS[which]}.name={name}"]
            argv += ["--set-string", f"{IMAGE_KEYS[which]}.tag={tag}"]
        for key, value in self.values.items():
            argv += ["--set-string", f"{key}={value}"]
        argv += ["--wait", "--timeout", f"{_INSTALL_LIMIT_S}s"]
        try:
            work.run(argv, limit_s=_INSTALL_LIMIT_S + 60)
        except CommandFailed:
            self._describe_pods(work)
            raise
        revision = self._status().get("version")
        self._record.write_text(json.dumps({"fingerprint": fingerprint, "revision": revision}))
        return f"revision {revision}"

    def wait_ready(self, work: Work) -> None:
        """Wait until every Deployment and StatefulSet of the namespace is rolled out."""
        names = ask(self._kubectl("get", "deployments,statefulsets", "--output=name"), limit_s=30)
        for name in names.split():
            argv = self._kubectl("rollout", "status", name, f"--timeout={_INSTALL_LIMIT_S}s")
            try:
                work.run(argv, limit_s=_INSTALL_LIMIT_S + 10)
            except CommandFailed:
                self._describe_pods(work)
                raise

    def url(self, work: Work) -> str:
        """Return where the hub is; on a cluster that gives no address, how to get there."""
        deadline = time.monotonic() + _ADDRESS_LIMIT_S
        while not (found := self.find_url()):
            if time.monotonic() > deadline:
                raise NotReady("the Service proxy-public got no address from its load balancer")
            work.wait(0.5)
        return found

    def find_url(self) -> str:
        """Return where the hub is now; "" when there is no address."""
        path = "jsonpath={.status.loadBalancer.ingress[0]['ip','hostname']}"
        with suppress(CommandFailed):
            argv = self._kubectl("get", "service", "proxy-public", f"--output={path}")
            if found := ask(argv, limit_s=10).strip():
                return f"http://{found}/"
        return ""

    def uninstall(self, work: Work) -> None:
        """Remove the release; Secrets and the database stay, as the chart promises."""
        argv = [*self.tools.helm, "uninstall", versions.RELEASE, "--ignore-not-found", "--wait"]
        work.run([*argv, "--namespace", versions.NAMESPACE], limit_s=300)
        self._record.unlink(missing_ok=True)

    def state(self) -> str:
        """Say in words what Helm knows of the release."""
        try:
            ask([*self.tools.kubectl, "get", "--raw", "/readyz"], limit_s=10)
        except CommandFailed:
            return "unknown: the API server does not answer"
        status = self._status()
        if not status:
            return "not installed"
        return f"{status.get('info', {}).get('status')} (revision {status.get('version')})"

    def _kubectl(self, *arguments: str) -> list[str]:
        return [*self.tools.kubectl, "--namespace", versions.NAMESPACE, *arguments]

    def _status(self) -> dict[str, Any]:
        argv = [*self.tools.helm, "status", versions.RELEASE, "--output=json"]
        with suppress(CommandFailed, ValueError):
            argv += ["--namespace", versions.NAMESPACE]
            answer: object = json.loads(ask(argv, limit_s=30))
            return answer if isinstance(answer, dict) else {}
        return {}

    def _is_installed(self, fingerprint: str) -> bool:
        with suppress(FileNotFoundError, ValueError):
            record = json.loads(self._record.read_text())
            status = self._status()
            return bool(
                record["fingerprint"] == fingerprint
                and status.get("version") == record["revision"]
                and _word(status) == "deployed"
            )
        return False

    def _unlock(self, work: Work) -> None:
        """Put right what a killed `up` left: Helm refuses to touch a release that is pending."""
        word = _word(self._status())
        end = ["--namespace", versions.NAMESPACE, "--wait"]
        if word == "pending-install":
            work.run([*self.tools.helm, "uninstall", versions.RELEASE, *end], limit_s=300)
        elif word in ("pending-upgrade", "pending-rollback"):
            work.run([*self.tools.helm, "rollback", versions.RELEASE, *end], limit_s=300)

    def _fingerprint(self, images: Mapping[str, str]) -> str:
        """Hash all that an install depends on: chart, values, image names, z2jh."""
        if self.subchart is None:
            raise LocalError("install was called before prepare")
        files: dict[str, Callable[[], bytes]] = {}
        roots = [self._chart]
        if self.subchart.is_standin:
            # Packaging writes the time into the package: its sources count instead.
            roots.append(self.places.repository / "local" / "z2jh")
        for root in roots:
            for path in sorted(each for each in root.rglob("*") if each.is_file()):
                if not (self.subchart.is_standin and path.suffix == ".tgz"):
                    files[f"{root.name}/{path.relative_to(root)}"] = path.read_bytes
        files["values"] = (self.places.repository / VALUES).read_bytes
        files["images"] = lambda: repr(sorted(images.items())).encode()
        files["own values"] = lambda: repr(sorted(self.values.items())).encode()
        return hash_files(files)

    def _describe_pods(self, work: Work) -> None:
        """Put into the log what explains pods that are not ready."""
        for arguments in (
            ("get", "pods", "--output=wide"),
            ("get", "events", "--sort-by=.lastTimestamp"),
            ("logs", "--selector=release", "--all-containers", "--tail=20", "--prefix"),
        ):
            with suppress(CommandFailed):
                work.run(self._kubectl(*arguments), limit_s=30)
        with suppress(CommandFailed):
            ready = "{range .items[?(@.status.containerStatuses[0].ready==false)]}"
            path = f"jsonpath={ready}{{.metadata.name}} {{end}}"
            for pod in ask(self._kubectl("get", "pods", f"--output={path}"), limit_s=30).split():
                work.run(self._kubectl("logs", pod, "--all-containers", "--tail=15"), limit_s=30)


def _word(status: Mapping[str, Any]) -> str:
    info = status.get("info")
    return str(info.get("status", "")) if isinstance(info, Mapping) else ""
