"""The cluster's own certificate authority, one client certificate and kubeconfig a component.

openssl does the work: Python's standard library cannot sign. Files are root's alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from local import versions
from local.commands import Work, ask
from local.errors import CommandFailed
from local.places import Places

_AUTHORITY_DAYS = 3650
_LEAF_DAYS = 365
_RENEW_S = 30 * 86400  # a certificate that ends within 30 days is made anew


@dataclass(frozen=True)
class Leaf:
    """A certificate: its subject, the names and addresses that it serves, if it serves any."""

    name: str
    subject: str
    names: tuple[str, ...] = ()


LEAVES = (
    Leaf(
        "apiserver",
        "/CN=kube-apiserver",
        (
            "DNS:kubernetes",
            "DNS:kubernetes.default",
            "DNS:kubernetes.default.svc",
            "DNS:kubernetes.default.svc.cluster.local",
            f"IP:{versions.NODE_ADDRESS}",
            f"IP:{versions.KUBERNETES_SERVICE}",
        ),
    ),
    Leaf("etcd", "/CN=etcd", ("IP:127.0.0.1",)),
    Leaf("apiserver-etcd", "/CN=kube-apiserver-etcd-client"),
    Leaf("apiserver-kubelet", "/O=system:masters/CN=kube-apiserver-kubelet-client"),
    Leaf("kubelet-server", "/CN=kubelet", (f"DNS:{versions.NODE}", f"IP:{versions.NODE_ADDRESS}")),
    Leaf("admin", "/O=system:masters/CN=comet-admin"),
    Leaf("kubelet", f"/O=system:nodes/CN=system:node:{versions.NODE}"),
    Leaf("kube-controller-manager", "/CN=system:kube-controller-manager"),
    Leaf("kube-scheduler", "/CN=system:kube-scheduler"),
    Leaf("kube-proxy", "/CN=system:kube-proxy"),
    # These two have the rights in templates/system.yaml and no more.
    Leaf("kube-router", "/CN=comet:kube-router"),
    Leaf("controller", "/CN=comet:controller"),
)
# Certificates that a kubeconfig is written for.
CLIENTS = (
    "admin",
    "kubelet",
    "kube-controller-manager",
    "kube-scheduler",
    "kube-proxy",
    "kube-router",
    "controller",
)


def ensure_pki(places: Places, work: Work) -> str:
    """Make what is missing or about to end; return a word for the progress line."""
    made = 0
    authority = places.keys / "ca.crt"
    if not authority.exists():
        _make_authority(places.keys, work)
        made += 1
    if not (places.keys / "service-accounts.pub").exists():
        _make_signing_key(places.keys, work)
        made += 1
    for leaf in LEAVES:
        if not _is_good(places.keys / f"{leaf.name}.crt"):
            _make_leaf(places.keys, leaf, work)
            made += 1
    for client in CLIENTS:
        path = places.kubeconfig if client == "admin" else places.keys / f"{client}.kubeconfig"
        path.write_text(render_kubeconfig(places.keys, client))
        path.chmod(0o600)
    return f"{made} made" if made else "unchanged"


def render_kubeconfig(keys: Path, client: str) -> str:
    """Render the kubeconfig of one client; it names the key files, it does not hold them."""
    return f"""\
apiVersion: v1
kind: Config
clusters:
  - name: {versions.CONTEXT}
    cluster: {{server: "{versions.API_URL}", certificate-authority: "{keys}/ca.crt"}}
users:
  - name: {client}
    user: {{client-certificate: "{keys}/{client}.crt", client-key: "{keys}/{client}.key"}}
contexts:
  - name: {versions.CONTEXT}
    context: {{cluster: {versions.CONTEXT}, user: {client}}}
current-context: {versions.CONTEXT}
"""


def _is_good(path: Path) -> bool:
    try:
        ask(["openssl", "x509", "-in", str(path), "-noout", "-checkend", str(_RENEW_S)])
    except CommandFailed:
        return False
    return True


def _make_authority(keys: Path, work: Work) -> None:
    argv = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes"]
    argv += ["-subj", "/CN=comet-local-ca", "-days", str(_AUTHORITY_DAYS)]
    argv += ["-addext", "keyUsage=critical,keyCertSign,cRLSign"]
    argv += ["-keyout", str(keys / "ca.key"), "-out", str(keys / "ca.crt")]
    work.run(argv, limit_s=60)


def _make_signing_key(keys: Path, work: Work) -> None:
    private, public = keys / "service-accounts.key", keys / "service-accounts.pub"
    work.run(["openssl", "genrsa", "-out", str(private), "2048"], limit_s=60)
    work.run(["openssl", "rsa", "-in", str(private), "-pubout", "-out", str(public)], limit_s=60)


def _make_leaf(keys: Path, leaf: Leaf, work: Work) -> None:
    key, request, certificate = (keys / f"{leaf.name}.{end}" for end in ("key", "csr", "crt"))
    use = "serverAuth" if leaf.names else "clientAuth"
    extensions = f"keyUsage=critical,digitalSignature\nextendedKeyUsage={use}\n"
    if leaf.names:
        extensions += f"subjectAltName={','.join(leaf.names)}\n"
    (keys / "extensions.cnf").write_text(extensions)
    argv = ["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    argv += ["-nodes", "-subj", leaf.subject, "-keyout", str(key), "-out", str(request)]
    work.run(argv, limit_s=60)
    argv = ["openssl", "x509", "-req", "-in", str(request), "-days", str(_LEAF_DAYS)]
    argv += ["-CA", str(keys / "ca.crt"), "-CAkey", str(keys / "ca.key"), "-CAcreateserial"]
    argv += ["-extfile", str(keys / "extensions.cnf"), "-out", str(certificate)]
    work.run(argv, limit_s=60)
    request.unlink()
