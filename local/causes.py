"""From the last lines of a log to the likely cause and the next thing to do (pure)."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Cause:
    """A guess in words: what probably went wrong, and what to do about it."""

    why: str
    then: str


# The first match in this order wins, so the more particular comes first.
_KNOWN: tuple[tuple[str, Cause], ...] = (
    (
        r"no space left on device|disk quota exceeded",
        Cause("the disk is full", "free some space (df -h), then run `make up` again"),
    ),
    (
        r"address already in use|bind: .*in use",
        Cause(
            "another program listens on a port that the cluster needs",
            "find it with `ss -ltnp`, stop it, then run `make up` again",
        ),
    ),
    (
        r"certificate verify failed|x509: certificate signed by unknown|self.signed certificate"
        r"|UNABLE_TO_GET_ISSUER_CERT|SELF_SIGNED_CERT",
        Cause(
            "the network's own certificate authority is not trusted",
            "add it to /etc/ssl/certs (update-ca-certificates) and run `make up` again",
        ),
    ),
    (
        r"temporary failure in name resolution|could not resolve|no such host|EAI_AGAIN"
        r"|Temporary failure resolving",
        Cause(
            "names cannot be resolved",
            "check the network and /etc/resolv.conf; behind a proxy set http_proxy, https_proxy",
        ),
    ),
    (
        r"connection timed out|i/o timeout|network is unreachable|TLS handshake timeout|ETIMEDOUT",
        Cause(
            "the network did not answer",
            "check it, and http_proxy, https_proxy where a proxy is needed; then run it again",
        ),
    ),
    (
        r"\b(403|407) (Forbidden|Proxy Authentication)|E403",
        Cause(
            "a mirror or proxy refused a download",
            "check the settings of apt, pip, npm or Go (GOPROXY) on this machine",
        ),
    ),
    (
        r"signal: killed|out of memory|Cannot allocate memory|oom-kill",
        Cause("memory ran out", "give the machine at least 8 GiB, or stop other programs"),
    ),
    (
        r"go: .*requires go >=|go.mod requires go|unsupported version of go",
        Cause("the Go toolchain is too old", "install a newer Go and put it first on PATH"),
    ),
    (
        r"missing go.sum entry|verifying module|checksum mismatch",
        Cause(
            "a Go module is not the one that go.sum names",
            "clean the module cache (go clean -modcache) and run it again",
        ),
    ),
    (
        r"THESE PACKAGES DO NOT MATCH THE HASHES|HASHES ARE REQUIRED",
        Cause("a Python package differs from the lock file", "run `make lock`, look at the diff"),
    ),
    (
        r"operation not permitted|permission denied|must be (run as )?root",
        Cause(
            "a right is missing",
            "run as root, on a machine or VM where containers may be made",
        ),
    ),
    (
        r"can't initialize iptables|modprobe: FATAL|table does not exist|RULE_APPEND failed",
        Cause(
            "the kernel lacks a netfilter module",
            "load ip_tables, iptable_nat, ip_set and br_netfilter, or use another kernel",
        ),
    ),
    (
        r"executable file not found|command not found|No such file or directory: '?(\w+)'?$",
        Cause("a program is missing", "see the log for its name and install it"),
    ),
    (
        r"context deadline exceeded|timed out waiting for the condition",
        Cause(
            "pods did not become ready in time",
            "see `kubectl get pods,events -A` with the KUBECONFIG of `make status`",
        ),
    ),
)


def guess_cause(text: str) -> Cause | None:
    """Find the likely cause in a log's last lines; None when nothing known is in them."""
    for pattern, cause in _KNOWN:
        if re.search(pattern, text, re.IGNORECASE | re.MULTILINE):
            return cause
    return None
