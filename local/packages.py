"""Debian packages that the cluster needs, installed where their programs are missing."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from local import versions
from local.commands import Work, ask
from local.components import find_cni_programs
from local.errors import CommandFailed, Missing

# Debian keeps these in sbin, which is not on everybody's PATH.
_SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin")
# Program: package. A program from elsewhere (docker's repository, say) is as good.
_CLUSTER = {
    "containerd": "containerd",
    "conntrack": "conntrack",
    "etcd": "etcd-server",
    "ip": "iproute2",
    "ipset": "ipset",
    "iptables": "iptables",
    "openssl": "openssl",
    "runc": "runc",
}
_IMAGES = {"buildah": "buildah", "mmdebstrap": "mmdebstrap"}
_FILES = {"/usr/share/keyrings/debian-archive-keyring.gpg": "debian-archive-keyring"}


@dataclass(frozen=True)
class Go:
    """A Go toolchain."""

    program: str
    version: tuple[int, int]


def extend_path() -> None:
    """Put the sbin folders at the end of this process's PATH."""
    parts = os.environ.get("PATH", "").split(":")
    os.environ["PATH"] = ":".join(parts + [each for each in _SBIN if each not in parts])


def missing_packages(*, own_images: bool) -> list[str]:
    """Name the packages to install; own_images adds what building without an engine needs."""
    wanted = _CLUSTER | (_IMAGES if own_images else {})
    packages = [package for program, package in wanted.items() if not shutil.which(program)]
    if own_images:
        packages += [package for path, package in _FILES.items() if not Path(path).exists()]
    try:
        find_cni_programs()
    except Missing:
        packages.append("containernetworking-plugins")
    return sorted(packages)


def ensure_packages(work: Work, *, own_images: bool) -> str:
    """Install what is missing with apt; return a word for the progress line."""
    packages = missing_packages(own_images=own_images)
    try:
        find_go()
    except Missing:
        packages.append("golang-go")
    if not packages:
        return "all there"
    install_packages(work, packages)
    find_go()
    return f"installed {', '.join(packages)}"


def install_packages(work: Work, packages: list[str]) -> None:
    """Install packages with apt. Raises Missing where there is no apt."""
    if not shutil.which("apt-get"):
        raise Missing(f"these are missing, and there is no apt-get here: {', '.join(packages)}")
    environment = {"DEBIAN_FRONTEND": "noninteractive"}
    work.run(["apt-get", "update"], env=environment, limit_s=600)
    argv = ["apt-get", "install", "--yes", "--no-install-recommends", *packages]
    work.run(argv, env=environment, limit_s=1800)


def find_go() -> Go:
    """Find a Go that is new enough. Raises Missing and says where to get one."""
    needed = ".".join(map(str, versions.GO_AT_LEAST))
    for program in (shutil.which("go"), "/usr/local/go/bin/go"):
        version = _go_version(program) if program else None
        if program and version and version >= versions.GO_AT_LEAST:
            return Go(program, version)
    raise Missing(
        f"Go {needed} or newer is needed to build Kubernetes, and this machine has none:"
        " install the package golang-go of Debian 13, or the archive from go.dev/dl"
        " unpacked as /usr/local/go"
    )


def _go_version(program: str) -> tuple[int, int] | None:
    try:
        found = re.search(r"go(\d+)\.(\d+)", ask([program, "version"]))
    except CommandFailed:
        return None
    return (int(found[1]), int(found[2])) if found else None
