"""The pods' bridge, and the routes that keep pods, services and addresses on this machine.

Pods reach each other, this machine and services; a packet of theirs to anywhere else is answered
"unreachable" here. Service and load balancer ranges lead to the bridge, so that a packet which
kube-proxy does not know (yet) cannot leave by the default route either.
"""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from pathlib import Path

from local import versions
from local.commands import Work, ask
from local.errors import CommandFailed, Missing
from local.places import Places

# What Kubernetes' networking needs; the values from before are kept and restored by `down`.
_SETTINGS = {
    "net/ipv4/ip_forward": "1",
    "net/bridge/bridge-nf-call-iptables": "1",
    f"net/ipv6/conf/{versions.BRIDGE}/disable_ipv6": "1",
}
# Chains that kube-proxy and kube-router make, and kube-router's address sets.
OUR_CHAINS = ("KUBE-",)
_RULE = ["priority", versions.ROUTING_TABLE, "iif", versions.BRIDGE]
_RULE += ["lookup", versions.ROUTING_TABLE]
_OUR_SETS = re.compile(r"KUBE-|inet6:KUBE-")
_NAMESPACES = "/run/netns"
_TABLES = ("filter", "nat", "mangle", "raw")


def ensure_network(places: Places, work: Work) -> str:
    """Make bridge, routes and kernel settings; harmless when they are there."""
    _refuse_other_kubernetes(places)
    if not (Path("/sys/class/net") / versions.BRIDGE).exists():
        work.run(["ip", "link", "add", versions.BRIDGE, "type", "bridge"], limit_s=10)
    _remember_settings(places)
    for name, value in _SETTINGS.items():
        _write_setting(name, value)
    bridge = ["dev", versions.BRIDGE]
    prefix = versions.POD_RANGE.split("/")[1]
    work.run(["ip", "address", "replace", f"{versions.NODE_ADDRESS}/{prefix}", *bridge], limit_s=10)
    work.run(["ip", "link", "set", versions.BRIDGE, "up"], limit_s=10)
    for network in (versions.SERVICE_RANGE, versions.LOADBALANCER_RANGE):
        work.run(["ip", "route", "replace", network, *bridge], limit_s=10)
    table = ["table", versions.ROUTING_TABLE]
    for network in (versions.POD_RANGE, versions.SERVICE_RANGE, versions.LOADBALANCER_RANGE):
        work.run(["ip", "route", "replace", network, *bridge, *table], limit_s=10)
    work.run(["ip", "route", "replace", "unreachable", "default", *table], limit_s=10)
    if versions.ROUTING_TABLE not in ask(["ip", "rule", "list"]):
        work.run(["ip", "rule", "add", *_RULE], limit_s=10)
    return f"bridge {versions.BRIDGE}"


def remove_network(places: Places, work: Work) -> None:
    """Undo ensure_network and what the cluster's programs left in the packet filter."""
    for argv in (
        ["ip", "rule", "delete", *_RULE],
        ["ip", "route", "flush", "table", versions.ROUTING_TABLE],
        ["ip", "link", "delete", versions.BRIDGE],
    ):
        with suppress(CommandFailed):  # each may be gone already
            work.run(argv, limit_s=10)
    for program in ("iptables", "ip6tables"):
        for table in _TABLES:
            _clean_table(program, table, work)
    _remove_sets(work)
    _restore_settings(places, work)


def without_chains(dump: str, prefixes: tuple[str, ...] = OUR_CHAINS) -> str:
    """Take the chains with these prefixes, and every rule that names one, out of a save (pure)."""
    # A chain is defined as `:NAME POLICY [0:0]` and named by `-A NAME`, `-j NAME`, `-g NAME`.
    names = "|".join(re.escape(prefix) for prefix in prefixes)
    ours = re.compile(rf"^:(?:{names})|(?:^|\s)-[Ajg] (?:{names})")
    # Rules of kube-router in the built-in chains that jump nowhere carry its comment.
    comment = re.compile(r'--comment "(?:kube-router|KUBE-ROUTER|kubernetes)[^"]*"')
    kept = [line for line in dump.splitlines() if not (ours.search(line) or comment.search(line))]
    return "\n".join(kept) + "\n"


def _refuse_other_kubernetes(places: Places) -> None:
    """Two kube-proxies on one machine would undo each other's rules."""
    if _before(places).exists() or (Path("/sys/class/net") / versions.BRIDGE).exists():
        return  # the chains are ours, from an earlier `up`
    with suppress(CommandFailed):
        if re.search(r"^:KUBE-SERVICES ", ask(["iptables-save", "-t", "nat"]), re.MULTILINE):
            raise Missing(
                "another Kubernetes already runs on this machine (chain KUBE-SERVICES in"
                " iptables): use it through its kubectl context, or stop it"
            )


def _clean_table(program: str, table: str, work: Work) -> None:
    try:
        dump = ask([f"{program}-save", "--counters", "--table", table])
    except CommandFailed:  # no such program, or no such table in this kernel
        return
    cleaned = without_chains(dump)
    if cleaned.strip() != dump.strip():
        # Restored as a whole and with counters: everybody else's rules stay as they are.
        argv = [f"{program}-restore", "--counters", "--table", table]
        work.run(argv, limit_s=10, stdin=cleaned)


def _remove_sets(work: Work) -> None:
    try:
        names = ask(["ipset", "list", "-name"]).split()
    except CommandFailed:
        return
    for name in names:
        if _OUR_SETS.match(name):
            with suppress(CommandFailed):
                work.run(["ipset", "destroy", name], limit_s=10)


def _setting(name: str) -> Path:
    return Path("/proc/sys") / name


def _write_setting(name: str, value: str) -> None:
    path = _setting(name)
    if path.exists() and path.read_text().strip() != value:
        path.write_text(value)


def _remember_settings(places: Places) -> None:
    """Keep the values from before the first `up` only: later ones are our own."""
    if not _before(places).exists():
        existing = [name for name in _SETTINGS if _setting(name).exists()]
        before: dict[str, str] = {name: _setting(name).read_text().strip() for name in existing}
        before[_NAMESPACES] = "mounted" if os.path.ismount(_NAMESPACES) else ""
        _before(places).write_text(json.dumps(before))


def _restore_settings(places: Places, work: Work) -> None:
    with suppress(FileNotFoundError, ValueError):
        before = json.loads(_before(places).read_text())
        was_mounted = before.pop(_NAMESPACES, "mounted")
        for name, value in before.items():
            _write_setting(name, value)
        # The pods' networks turned this folder into a mount of its own.
        if (
            not was_mounted
            and os.path.ismount(_NAMESPACES)
            and not list(Path(_NAMESPACES).iterdir())
        ):
            work.run(["umount", _NAMESPACES], limit_s=10)


def _before(places: Places) -> Path:
    return places.state / "settings-before.json"
