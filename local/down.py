"""`down`: end what `up` started, in the opposite order, by the recorded pids alone."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from local import binaries, components, containers, network, versions
from local.commands import Work, ask
from local.errors import CommandFailed, LocalError
from local.places import Places
from local.processes import Daemons, start_time
from local.steps import Step, Steps
from local.up import Target, load_target, make_release

# First what would start pods again or repair rules; the others are stopped after the pods.
_BEFORE_PODS = ("controller", "kubelet", "kube-router", "kube-proxy")
_AFTER_PODS = ("kube-scheduler", "kube-controller-manager", "kube-apiserver", "etcd", "containerd")
_CGROUPS = Path("/sys/fs/cgroup")
# Folders that the programs make without asking; what is empty of them goes.
_FIXED_FOLDERS = (
    "/run/containerd/runc/k8s.io",
    "/run/containerd/runc",
    "/run/containerd/s",
    "/run/containerd",
    "/var/lib/cni/results",
    "/var/lib/cni",
    "/var/lib/kubelet/device-plugins",
    "/var/lib/kubelet",
)
_KUBELET_SOCKET = Path("/var/lib/kubelet/device-plugins/kubelet.sock")
_POD_LOG_LINKS = Path("/var/log/containers")  # the kubelet has no setting for this folder


def down(places: Places) -> None:
    """Remove everything that `up` made on the cluster it used; the build cache stays."""
    target = load_target(places)
    if target is not None and target.context:
        _uninstall(places, target)
        return
    if os.geteuid() != 0:
        raise LocalError("the Kubernetes on this machine is root's: run `sudo make down`")
    if not places.state.exists():
        print("nothing is up")
        return
    work = Work("down", places.logs / "step-down.log", threading.Event())
    steps = Steps(places.logs)
    for name, action in _actions(places):
        action(work)
        steps.say(name)
    problems = find_leftovers(places)
    if problems:
        raise LocalError("down left something behind:\n  " + "\n  ".join(problems))
    shutil.rmtree(places.state)
    steps.say(f"{places.state} removed; {places.cache} stays")


def _actions(places: Places) -> list[tuple[str, Callable[[Work], object]]]:
    daemons = Daemons(places.records, places.logs)
    return [
        ("kubelet and rule writers ended", lambda _: _stop(daemons, _BEFORE_PODS)),
        ("pods removed", lambda work: _stop_pods(places, daemons, work)),
        ("control plane ended", lambda _: _stop(daemons, (*_AFTER_PODS, *daemons.names()))),
        ("stray processes ended", lambda _: _end_strays(places)),
        ("mounts removed", lambda work: _unmount(places, work)),
        ("bridge, routes and packet filter rules removed", lambda work: _network(places, work)),
        ("control groups and links removed", lambda _: _remove_traces(places)),
    ]


def find_leftovers(places: Places) -> list[str]:
    """Describe what is still there of a cluster: processes, mounts, the bridge, chains."""
    found = [f"process {pid} works in {places.state}" for pid in _processes_below(places.state)]
    found += [f"mount {path}" for path in _mounts_below(places)]
    if (Path("/sys/class/net") / versions.BRIDGE).exists():
        found.append(f"bridge {versions.BRIDGE}")
    with suppress(CommandFailed):
        dump = ask(["iptables-save"])
        found += [
            f"iptables chain {line.split()[0][1:]}"
            for line in dump.splitlines()
            if line.startswith(tuple(f":{prefix}" for prefix in network.OUR_CHAINS))
        ]
    return found


def _uninstall(places: Places, target: Target) -> None:
    steps = Steps(places.logs)
    release = make_release(places, target)

    def uninstall(work: Work) -> str:
        release.uninstall(work)
        return f"{versions.RELEASE} of context {target.context}"

    steps.run([Step("uninstall", uninstall)])
    (places.state / "target.json").unlink(missing_ok=True)
    print(
        f"Secrets and the hub's database stay. To remove them too:\n"
        f"  kubectl --context {target.context} delete namespace {versions.NAMESPACE}"
    )


def _stop(daemons: Daemons, names: Iterable[str]) -> None:
    for name in dict.fromkeys(names):
        daemons.stop(name)


def _stop_pods(places: Places, daemons: Daemons, work: Work) -> None:
    """Have containerd remove every pod; if it is dead it is started once more for that."""
    kube = binaries.program_path(places, binaries.KUBE)
    if not kube.exists() or not (places.configuration / "containerd.toml").exists():
        return
    components.containerd(places).ensure(daemons)
    deadline = time.monotonic() + 20
    while not containers.is_answering(places) and time.monotonic() < deadline:
        work.wait(0.2)
    with suppress(CommandFailed):  # what stays is found as a stray or a mount below
        endpoint = f"unix://{places.containerd_socket}"
        work.run([str(kube), "stop-pods", "--endpoint", endpoint, "--limit=60s"], limit_s=90)


def _network(places: Places, work: Work) -> None:
    network.remove_network(places, work)


def _end_strays(places: Places) -> None:
    """End what still works in the state folder (shims) or in a pod's control group."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        strays = set(_processes_below(places.state)) | set(_processes_of_pods())
        for pid in strays:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        deadline = time.monotonic() + 3
        while any(start_time(pid) for pid in strays) and time.monotonic() < deadline:
            time.sleep(0.1)


def _processes_below(folder: Path) -> Iterator[int]:
    """Find processes whose working folder is in ours: nobody else's shim has that."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with suppress(OSError):
                if (entry / "cwd").readlink().is_relative_to(folder):
                    yield int(entry.name)


def _pod_groups() -> Iterator[Path]:
    """The kubelet's control groups, of every controller (v1) or of the one tree (v2)."""
    yield from _CGROUPS.glob("*/kubepods")
    yield from _CGROUPS.glob("kubepods")


def _processes_of_pods() -> Iterator[int]:
    for group in _pod_groups():
        for procs in group.rglob("cgroup.procs"):
            with suppress(OSError):
                yield from map(int, procs.read_text().split())


def _mounts_below(places: Places) -> list[Path]:
    """Mount points in the state folder and in buildah's store, the deepest first."""
    folders = (places.state, places.cache / "buildah")
    points = [
        # Spaces and such are written as octal escapes.
        Path(line.split()[4].encode().decode("unicode_escape"))
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
    ]
    ours = [point for point in points if any(point.is_relative_to(each) for each in folders)]
    return sorted(ours, key=lambda point: len(point.parts), reverse=True)


def _unmount(places: Places, work: Work) -> None:
    for point in _mounts_below(places):
        with suppress(CommandFailed):  # named as a leftover if it stays
            work.run(["umount", str(point)], limit_s=20)


def _remove_traces(places: Places) -> None:
    for group in _pod_groups():
        below = sorted((each for each in group.rglob("*") if each.is_dir()), reverse=True)
        for folder in (*below, group):
            with suppress(OSError):
                folder.rmdir()
    _KUBELET_SOCKET.unlink(missing_ok=True)  # no other kubelet: `up` refuses a second Kubernetes
    for empty in _FIXED_FOLDERS:
        with suppress(OSError):  # somebody else's, or not empty
            Path(empty).rmdir()
    for link in _POD_LOG_LINKS.glob("*.log") if _POD_LOG_LINKS.is_dir() else ():
        if link.is_symlink() and link.readlink().is_relative_to(places.state):
            link.unlink()
