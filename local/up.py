"""`up`: a cluster, the images, the chart; everything that is already right is left alone."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from local import binaries, containers, images, versions
from local.builders import Builder, find_builder
from local.cluster import CONTAINERD_READY, DNS_READY, PACKAGES, Cluster, build_step_name
from local.commands import Work, ask, tail
from local.delivery import Delivery
from local.errors import CommandFailed, LocalError, NotReady
from local.images import Image
from local.packages import install_packages
from local.places import Places
from local.release import LOGIN, OWN_CLUSTER, Release, Tools
from local.steps import Step, Steps

_ASK_LIMIT_S = 5.0


@dataclass(frozen=True)
class Target:
    """The cluster that is used: a kubectl context, or our own when it is empty."""

    context: str = ""

    def save(self, places: Places) -> None:
        """Remember it for status and down."""
        (places.state / "target.json").write_text(json.dumps({"context": self.context}))


def load_target(places: Places) -> Target | None:
    """Return what the last `up` used; None when there was none."""
    with suppress(FileNotFoundError, ValueError, KeyError):
        return Target(json.loads((places.state / "target.json").read_text())["context"])
    return None


def choose_target(environment: Mapping[str, str]) -> Target:
    """Use the current context where its API server answers, unless LOCAL=1 or it is our own."""
    if environment.get("LOCAL") == "1" or not shutil.which("kubectl"):
        return Target()
    with suppress(CommandFailed):
        context = ask(["kubectl", "config", "current-context"], limit_s=_ASK_LIMIT_S).strip()
        if context and context != versions.CONTEXT:
            ready = ["kubectl", "--context", context, "get", "--raw", "/readyz"]
            ask([*ready, f"--request-timeout={_ASK_LIMIT_S:.0f}s"], limit_s=_ASK_LIMIT_S + 1)
            return Target(context)
    return Target()


def make_release(places: Places, target: Target) -> Release:
    """Return the release on the target's cluster."""
    if not target.context:
        helm = [str(places.binaries / "helm"), "--kubeconfig", str(places.kubeconfig)]
        return Release(places, Tools(helm, Cluster(places).kubectl()), OWN_CLUSTER)
    helm_program = shutil.which("helm") or str(places.binaries / "helm")
    helm = [helm_program, "--kube-context", target.context]
    return Release(places, Tools(helm, ["kubectl", "--context", target.context]))


def up(places: Places) -> None:
    """Bring everything up and print where it is. Raises LocalError."""
    target = choose_target(os.environ)
    if not target.context and os.geteuid() != 0:
        raise LocalError("a Kubernetes on this machine needs root: run `sudo make up`")
    places.make()
    steps = Steps(places.logs)
    where = f"context {target.context}" if target.context else f"this machine ({places.state})"
    steps.say(f"cluster: {where}")
    target.save(places)
    builder = find_builder(places)
    release = make_release(places, target)
    found: list[str] = []
    plan = _foreign_steps if target.context else _local_steps
    steps.run(plan(places, target, builder, release, found))
    print(_summary(places, target, release, found[0], steps.elapsed_s()))


def _summary(places: Places, target: Target, release: Release, url: str, elapsed_s: float) -> str:
    minutes, seconds = divmod(round(elapsed_s), 60)
    lines = [release.notice()] if release.notice() else []
    lines += ["", f"  open   {url}", f"  login  {LOGIN}"]
    if not target.context:
        lines.append(f"  kubectl: export KUBECONFIG={places.kubeconfig}")
    lines.append(f"  up in {minutes} min {seconds} s")
    return "\n".join(lines)


def image_steps(
    places: Places,
    builder: Builder,
    wanted: Mapping[str, Image],
    into_cluster: Callable[[Image, Work], str] | None,
    cluster_ready: tuple[str, ...] = (),
) -> list[Step]:
    """Steps that build images after the base, and bring each to the cluster."""
    steps = [Step("base image", lambda work: images.ensure_base(places, builder, work))]
    if not builder.fetches:
        steps[0] = Step(steps[0].name, steps[0].run, (PACKAGES,))
    for which, image in wanted.items():
        steps.append(_build_step(places, builder, which, image))
        if into_cluster is not None:
            steps.append(_import_step(into_cluster, which, image, cluster_ready))
    return steps


def _build_step(places: Places, builder: Builder, which: str, image: Image) -> Step:
    def build(work: Work) -> str:
        return images.ensure_built(places, builder, image, work)

    return Step(f"image {which}", build, ("base image",))


def _import_step(
    into_cluster: Callable[[Image, Work], str],
    which: str,
    image: Image,
    cluster_ready: tuple[str, ...],
) -> Step:
    def bring(work: Work) -> str:
        return into_cluster(image, work)

    return Step(f"import {which}", bring, (f"image {which}", *cluster_ready))


def our_images(places: Places, builder: Builder) -> dict[str, Image]:
    """Describe the three images of the project."""
    return {which: images.our_image(places, which, builder) for which in images.OURS}


def _local_steps(
    places: Places, _target: Target, builder: Builder, release: Release, found: list[str]
) -> list[Step]:
    ours = our_images(places, builder)
    wanted = {"proxy": images.proxy_image(places, builder), **ours}
    steps = Cluster(places).steps(own_images=not builder.fetches)
    steps += image_steps(
        places,
        builder,
        wanted,
        lambda image, work: images.ensure_in_cluster(places, image, work),
        (CONTAINERD_READY,),
    )
    steps.append(
        Step(
            "import base",
            lambda work: images.ensure_base_in_cluster(places, builder, work),
            ("base image", CONTAINERD_READY),
        )
    )
    imports = tuple(f"import {which}" for which in wanted)
    helm = build_step_name(binaries.HELM)
    steps += _release_steps(release, ours, (DNS_READY, *imports), (helm,), found)
    return [*steps, Step("check", lambda work: _check(places, work), ("address",))]


def _check(places: Places, work: Work) -> str:
    """Have every program of the cluster still running at the end; forget what is out of use."""
    daemons = Cluster(places).daemons
    for name in daemons.names():
        record = daemons.find(name)
        if record is None or not record.is_alive():
            log = daemons.log(name)
            work.say(tail(log))
            raise NotReady(f"{name} ended by itself; its log is {log}")
    containers.forget_images(places, work, places.archives)
    return f"{len(daemons.names())} programs run"


def _foreign_steps(
    places: Places, target: Target, builder: Builder, release: Release, found: list[str]
) -> list[Step]:
    delivery = Delivery(target.context, os.environ.get("COMET_REGISTRY", "").rstrip("/"))
    ours = our_images(places, builder)
    delivery.load_command(next(iter(ours.values())).archive)  # refuse before anything is built
    steps = [
        Step(PACKAGES, lambda work: ensure_tools(places, builder, work)),
        *image_steps(
            places,
            builder,
            ours,
            lambda image, work: delivery.deliver(work, builder, image.name, image.archive),
        ),
    ]
    imports = tuple(f"import {which}" for which in ours)
    named = {
        which: Image(delivery.image_name(image.name), image.archive, image.context)
        for which, image in ours.items()
    }
    return [*steps, *_release_steps(release, named, imports, (PACKAGES,), found)]


def _release_steps(
    release: Release,
    ours: Mapping[str, Image],
    after: tuple[str, ...],
    helm: tuple[str, ...],
    found: list[str],
) -> list[Step]:
    names = {which: image.name for which, image in ours.items()}

    def address(work: Work) -> str:
        found.append(release.url(work))
        return found[0]

    return [
        Step("chart", release.prepare, helm),
        Step("install", lambda work: release.install(work, names), ("chart", *after)),
        Step("address", address, ("install",)),
    ]


def ensure_tools(places: Places, builder: Builder, work: Work) -> str:
    """Have helm, and buildah where no engine builds images."""
    if not builder.fetches and not shutil.which("buildah"):
        install_packages(work, ["buildah", "mmdebstrap"])
    if shutil.which("helm"):
        return "helm is there"
    return binaries.ensure_program(places, binaries.HELM, work)
