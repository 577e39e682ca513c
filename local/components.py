"""The cluster's programs: configuration files from templates/, arguments, and start (in order)."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

from local import versions
from local.errors import Missing
from local.places import Places
from local.processes import Daemons

_CONFIGURATION = {
    "containerd.toml": "containerd.toml",
    "bridge.conflist": "cni/10-bridge.conflist",
    "kubelet.yaml": "kubelet.yaml",
    "kube-proxy.yaml": "kube-proxy.yaml",
    "resolv.conf": "resolv.conf",
    "system.yaml": "system.yaml",
}
_CNI_FOLDERS = (Path("/usr/lib/cni"), Path("/opt/cni/bin"), Path("/usr/libexec/cni"))


@dataclass(frozen=True)
class Component:
    """A program of the cluster. It is started again when an argument or an input changes."""

    name: str
    argv: list[str]
    env: dict[str, str] = field(default_factory=dict)
    inputs: tuple[Path, ...] = ()

    def ensure(self, daemons: Daemons) -> bool:
        """Have it running; return whether it had to be started."""
        return daemons.ensure(self.name, self.argv, env=self.env, inputs=self.inputs)


def find_cni_programs() -> Path:
    """Return the folder of the CNI plugins, wherever the distribution has it."""
    for folder in _CNI_FOLDERS:
        if (folder / "bridge").exists():
            return folder
    raise Missing(f"the CNI plugin `bridge` is in none of {', '.join(map(str, _CNI_FOLDERS))}")


def write_configuration(places: Places) -> None:
    """Write every template with this machine's paths and our addresses filled in."""
    values = {
        "CACHE": str(places.cache),
        "STATE": str(places.state),
        "SOCKET": str(places.containerd_socket),
        "KEYS": str(places.keys),
        "CONFIGURATION": str(places.configuration),
        "CNI_PROGRAMS": str(find_cni_programs()),
        **{name: str(value) for name, value in vars(versions).items() if name.isupper()},
    }
    for source, target in _CONFIGURATION.items():
        path = places.configuration / target
        path.parent.mkdir(parents=True, exist_ok=True)
        text = (places.templates / source).read_text()
        template_hash = hashlib.sha256(text.encode()).hexdigest()[:16]
        rendered = Template(text).substitute(values, TEMPLATE_HASH=template_hash)
        # Left alone when it is right: kube-proxy ends itself when its file is written.
        if not path.exists() or path.read_text() != rendered:
            path.write_text(rendered)


def containerd(places: Places) -> Component:
    config = places.configuration / "containerd.toml"
    return Component("containerd", ["containerd", "--config", str(config)], inputs=(config,))


def etcd(places: Places) -> Component:
    keys, client = places.keys, f"https://127.0.0.1:{versions.ETCD_PORT}"
    peer = f"http://127.0.0.1:{versions.ETCD_PEER_PORT}"
    argv = ["etcd", f"--data-dir={places.state}/etcd"]
    argv += [f"--listen-client-urls={client}", f"--advertise-client-urls={client}"]
    argv += [f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}"]
    argv += [f"--initial-cluster=default={peer}"]
    argv += [f"--cert-file={keys}/etcd.crt", f"--key-file={keys}/etcd.key"]
    argv += ["--client-cert-auth", f"--trusted-ca-file={keys}/ca.crt"]
    # A demo's cluster need not outlive a power cut; a laptop's disk is spared.
    argv += ["--unsafe-no-fsync"]
    return Component("etcd", argv, inputs=(keys / "etcd.crt",))


def apiserver(places: Places, kube: Path) -> Component:
    keys = places.keys
    argv = [str(kube), "kube-apiserver"]
    argv += [f"--bind-address={versions.NODE_ADDRESS}", f"--secure-port={versions.API_PORT}"]
    argv += [f"--advertise-address={versions.NODE_ADDRESS}"]
    argv += [f"--service-cluster-ip-range={versions.SERVICE_RANGE}"]
    argv += [f"--etcd-servers=https://127.0.0.1:{versions.ETCD_PORT}"]
    argv += [f"--etcd-cafile={keys}/ca.crt", f"--etcd-certfile={keys}/apiserver-etcd.crt"]
    argv += [f"--etcd-keyfile={keys}/apiserver-etcd.key"]
    argv += [f"--tls-cert-file={keys}/apiserver.crt"]
    argv += [f"--tls-private-key-file={keys}/apiserver.key", f"--client-ca-file={keys}/ca.crt"]
    argv += [f"--kubelet-certificate-authority={keys}/ca.crt"]
    argv += [f"--kubelet-client-certificate={keys}/apiserver-kubelet.crt"]
    argv += [f"--kubelet-client-key={keys}/apiserver-kubelet.key"]
    argv += ["--kubelet-preferred-address-types=InternalIP"]
    argv += [f"--service-account-key-file={keys}/service-accounts.pub"]
    argv += [f"--service-account-signing-key-file={keys}/service-accounts.key"]
    argv += ["--service-account-issuer=https://kubernetes.default.svc.cluster.local"]
    argv += ["--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction"]
    argv += ["--allow-privileged=true", "--profiling=false"]
    certificates = tuple(keys / f"{name}.crt" for name in ("apiserver", "apiserver-kubelet"))
    return Component("kube-apiserver", argv, inputs=certificates)


def controller_manager(places: Places, kube: Path) -> Component:
    kubeconfig = places.keys / "kube-controller-manager.kubeconfig"
    argv = [str(kube), "kube-controller-manager", f"--kubeconfig={kubeconfig}"]
    argv += [f"--authentication-kubeconfig={kubeconfig}"]
    argv += [f"--authorization-kubeconfig={kubeconfig}"]
    argv += ["--bind-address=127.0.0.1", "--leader-elect=false", "--profiling=false"]
    argv += [f"--root-ca-file={places.keys}/ca.crt"]
    argv += [f"--service-account-private-key-file={places.keys}/service-accounts.key"]
    argv += ["--use-service-account-credentials=true"]
    # The plugin folder below /usr may be read-only, and nothing is in it.
    argv += [f"--flex-volume-plugin-dir={places.state}/volume-plugins"]
    return Component("kube-controller-manager", argv, inputs=(kubeconfig,))


def scheduler(places: Places, kube: Path) -> Component:
    kubeconfig = places.keys / "kube-scheduler.kubeconfig"
    argv = [str(kube), "kube-scheduler", f"--kubeconfig={kubeconfig}"]
    argv += [f"--authentication-kubeconfig={kubeconfig}"]
    argv += [f"--authorization-kubeconfig={kubeconfig}"]
    argv += ["--bind-address=127.0.0.1", "--leader-elect=false", "--profiling=false"]
    return Component("kube-scheduler", argv, inputs=(kubeconfig,))


def kubelet(places: Places, kube: Path) -> Component:
    config = places.configuration / "kubelet.yaml"
    argv = [str(kube), "kubelet", f"--config={config}"]
    argv += [f"--kubeconfig={places.keys}/kubelet.kubeconfig"]
    argv += [f"--hostname-override={versions.NODE}", f"--node-ip={versions.NODE_ADDRESS}"]
    argv += [f"--root-dir={places.state}/kubelet"]
    return Component("kubelet", argv, inputs=(config, places.keys / "kubelet-server.crt"))


def kube_proxy(places: Places, kube: Path) -> Component:
    config = places.configuration / "kube-proxy.yaml"
    argv = [str(kube), "kube-proxy", f"--config={config}"]
    return Component("kube-proxy", argv, inputs=(config,))


def kube_router(places: Places, program: Path) -> Component:
    """Enforce NetworkPolicies, and nothing else of what kube-router can do."""
    argv = [str(program), f"--kubeconfig={places.keys}/kube-router.kubeconfig"]
    argv += ["--run-firewall=true", "--run-router=false", "--run-service-proxy=false"]
    argv += ["--run-loadbalancer=false", "--enable-cni=false", "--enable-ipv6=false"]
    argv += [f"--hostname-override={versions.NODE}", "--health-port=0", "--metrics-port=0"]
    argv += [f"--service-cluster-ip-range={versions.SERVICE_RANGE}"]
    argv += [f"--loadbalancer-ip-range={versions.LOADBALANCER_RANGE}"]
    # Rules are written on every change; this is how often they are checked without one.
    argv += ["--iptables-sync-period=1m"]
    return Component("kube-router", argv, env={"NODE_NAME": versions.NODE})


def controller(places: Places) -> Component:
    """Our own loop: load balancer addresses and folders for volumes."""
    argv = [sys.executable, "-m", "local.controller"]
    argv += ["--keys", str(places.keys), "--volumes", str(places.volumes)]
    folder = places.repository / "local"
    sources = ("controller.py", "loadbalancer.py", "storage.py", "api.py", "versions.py")
    return Component(
        "controller",
        argv,
        env={"PYTHONPATH": str(places.repository), "PYTHONDONTWRITEBYTECODE": "1"},
        inputs=tuple(folder / name for name in sources),
    )
