"""Programs built with Go into the cache, each under a name that holds its version or its sources.

A program that is in the cache is never built again; the path is what `up` runs, so that a new
version is a new path and its daemon is started anew.
"""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from local import versions
from local.commands import Work
from local.packages import find_go
from local.places import Places


@dataclass(frozen=True)
class Program:
    """A Go program: our sources in local/NAME, or the package of a published module."""

    name: str
    version: str
    package: str = ""  # module path with @version; empty: the sources are in local/NAME
    flags: tuple[str, ...] = ()
    linker: tuple[str, ...] = ()
    links: tuple[str, ...] = ()  # further names in the cache's bin


_KUBERNETES = versions.KUBERNETES.split(".")[:2]

KUBE = Program(
    "kube",
    versions.KUBERNETES,
    flags=("-tags", "providerless"),
    # What `kubectl version` and the chart's kubeVersion see.
    linker=(
        f"-X k8s.io/component-base/version.gitVersion=v{versions.KUBERNETES}",
        f"-X k8s.io/component-base/version.gitMajor={_KUBERNETES[0]}",
        f"-X k8s.io/component-base/version.gitMinor={_KUBERNETES[1]}",
    ),
    links=("kubectl",),
)
HELM = Program(
    "helm",
    versions.HELM,
    package=f"helm.sh/helm/v3/cmd/helm@v{versions.HELM}",
    # Without the others `helm template` renders for Kubernetes 1.20, which z2jh refuses.
    linker=(
        f"-X helm.sh/helm/v3/internal/version.version=v{versions.HELM}",
        *(
            f"-X helm.sh/helm/v3/pkg/{package}.k8sVersion{part}={number}"
            for package in ("chartutil", "lint/rules")
            for part, number in zip(("Major", "Minor"), _KUBERNETES, strict=True)
        ),
    ),
    links=("helm",),
)
KUBE_ROUTER = Program(
    "kube-router",
    versions.KUBE_ROUTER,
    package=f"github.com/cloudnativelabs/kube-router/v2/cmd/kube-router@v{versions.KUBE_ROUTER}",
)
COREDNS = Program("coredns", versions.COREDNS)
PAUSE = Program("pause", "1")


def program_path(places: Places, program: Program) -> Path:
    """Where the program is, or will be once it is built."""
    return places.binaries / f"{program.name}-{program.version}-{_key(places, program)}"


def ensure_program(places: Places, program: Program, work: Work) -> str:
    """Build a program unless it is in the cache; return a word for the progress line."""
    path = program_path(places, program)
    with locked(places, path.name):
        word = "cached"
        if not path.exists():
            build_program(places, program, path, work)
            word = f"built {program.version}"
    for link in program.links:
        _point(places.binaries / link, path)
    return word


def build_program(places: Places, program: Program, path: Path, work: Work) -> None:
    """Build a program to this path, which appears only when the build is complete."""
    go = find_go().program
    environment = {"CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false"}
    linker = " ".join(("-s -w", *program.linker))
    if program.package:
        folder = places.binaries / f".{path.name}"
        argv = [go, "install", "-ldflags", linker, *program.flags, program.package]
        work.run(argv, env={**environment, "GOBIN": str(folder)})
        (folder / program.name).replace(path)
        folder.rmdir()
    else:
        source = places.repository / "local" / program.name
        partial = path.with_name(f".{path.name}")
        argv = [go, "build", "-ldflags", linker, *program.flags, "-o", str(partial), "."]
        work.run(argv, env=environment, cwd=source)
        partial.replace(path)


@contextmanager
def locked(places: Places, name: str) -> Iterator[None]:
    """Keep two `up`s that share a cache from making the same thing at the same time."""
    path = places.cache / "locks" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def hash_files(files: Mapping[str, Callable[[], bytes]]) -> str:
    """Hash names and contents, in the order of the names (pure but for the readers)."""
    digest = hashlib.sha256()
    for name in sorted(files):
        content = files[name]()
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def _key(places: Places, program: Program) -> str:
    recipe = repr((program.package, program.flags, program.linker)).encode()
    files: dict[str, Callable[[], bytes]] = {"recipe": lambda: recipe}
    if not program.package:
        folder = places.repository / "local" / program.name
        files |= {path.name: path.read_bytes for path in folder.iterdir() if path.is_file()}
    return hash_files(files)[:8]


def _point(link: Path, target: Path) -> None:
    if link.is_symlink() and link.readlink() == Path(target.name):
        return
    fresh = link.with_name(f".{link.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target.name)
    fresh.replace(link)
