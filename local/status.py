"""`status`: what runs, with pid and health, in which version, and where to open it."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass

from local import versions
from local.cluster import Cluster
from local.commands import ask
from local.errors import CommandFailed
from local.places import Places
from local.release import LOGIN, Release
from local.up import load_target, make_release

_VERSIONS = {
    "kube-apiserver": versions.KUBERNETES,
    "kube-controller-manager": versions.KUBERNETES,
    "kube-scheduler": versions.KUBERNETES,
    "kubelet": versions.KUBERNETES,
    "kube-proxy": versions.KUBERNETES,
    "kube-router": versions.KUBE_ROUTER,
    "controller": "ours",
}


@dataclass(frozen=True)
class Part:
    """A line of the answer."""

    name: str
    is_healthy: bool
    text: str

    def render(self) -> str:
        """Render the line."""
        return f"{'ok ' if self.is_healthy else 'BAD'}  {self.name:<24} {self.text}".rstrip()


def status(places: Places) -> bool:
    """Print the state of everything; return whether all of it is well."""
    target = load_target(places)
    if target is None:
        print("nothing is up: run `make up`")
        return False
    parts: list[Part] = []
    if target.context:
        parts.append(Part("context", True, target.context))
    else:
        parts += _daemon_parts(places)
    release = make_release(places, target)
    parts += _pod_parts(release, whole_cluster=not target.context)
    state = release.state()
    parts.append(Part("release comet", state.startswith("deployed"), state))
    parts.append(_chart_part(release))
    for part in parts:
        print(part.render())
    print(f"\nopen   {release.find_url() or '(no address yet)'}\nlogin  {LOGIN}")
    if not target.context:
        print(f"logs   {places.logs}\nexport KUBECONFIG={places.kubeconfig}")
    return all(part.is_healthy for part in parts)


def _daemon_parts(places: Places) -> list[Part]:
    cluster = Cluster(places)
    parts = []
    for name in cluster.daemons.names():
        record = cluster.daemons.find(name)
        alive = record is not None and record.is_alive()
        pid = f"pid {record.pid}" if record else "no record"
        text = f"{pid:<12} {_VERSIONS.get(name, '')}"
        ended = f"ended; log {cluster.daemons.log(name)}"
        parts.append(Part(name, alive, text if alive else ended))
    parts.append(Part("API server", cluster.is_ready(), versions.API_URL))
    return parts


def _pod_parts(release: Release, *, whole_cluster: bool) -> list[Part]:
    scope = ["--all-namespaces"] if whole_cluster else ["--namespace", versions.NAMESPACE]
    try:
        text = ask([*release.tools.kubectl, "get", "pods", *scope, "--output=json"], limit_s=15)
        items = json.loads(text)["items"]
    except (CommandFailed, ValueError, KeyError) as error:
        return [Part("pods", False, str(error))]
    parts = []
    for item in items:
        metadata, state = item["metadata"], item.get("status", {})
        phase = state.get("phase", "Unknown")
        each = state.get("containerStatuses", [])
        ready = sum(bool(one.get("ready")) for one in each)
        restarts = sum(int(one.get("restartCount", 0)) for one in each)
        healthy = phase == "Succeeded" or (phase == "Running" and ready == len(each) > 0)
        text = f"{phase}, {ready} of {len(each)} ready, {restarts} restarts"
        parts.append(Part(f"pod {metadata['name']}", healthy, text))
    return parts


def _chart_part(release: Release) -> Part:
    """Say which z2jh is installed: the stand-in is no fault, but nobody must overlook it."""
    argv = [*release.tools.kubectl, "--namespace", versions.NAMESPACE, "get", "deployment", "hub"]
    label = r"jsonpath={.metadata.labels.helm\.sh/chart}"
    with suppress(CommandFailed):
        chart = ask([*argv, f"--output={label}"], limit_s=15).strip()
        loud = "  (the STAND-IN, not Zero to JupyterHub)" if "standin" in chart else ""
        return Part("z2jh", True, f"{chart or 'unknown'}{loud}")
    return Part("z2jh", False, "no Deployment named hub")
