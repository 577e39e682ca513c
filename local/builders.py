"""What builds images: an engine that is there and works, else buildah with a base of our own.

A builder makes an archive from a staged build context, and knows whether it can fetch published
images; where it cannot, local/bases.py supplies them.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from local.commands import Work, ask
from local.errors import CommandFailed
from local.machine import write_build_files
from local.places import Places

_ENGINES = ("docker", "podman")
_BUILD_LIMIT_S = 3600.0


class Builder(Protocol):
    """Makes image archives. Paths of archives appear only when they are complete."""

    @property
    def name(self) -> str:
        """What it is called, for the progress line."""
        ...

    @property
    def fetches(self) -> bool:
        """Whether published images can be had from a registry."""
        ...

    def build(self, work: Work, image: str, dockerfile: Path, context: Path, archive: Path) -> None:
        """Build an image and write it to an archive."""
        ...

    def load(self, work: Work, archive: Path) -> None:
        """Take an image from an archive, as the base of later builds."""
        ...

    def forget(self, work: Work, name: str) -> None:
        """Remove an image from the builder's store; none there is fine."""
        ...

    def push(self, work: Work, archive: Path, name: str, target: str) -> None:
        """Push the archive's image of this name to a registry under another one."""
        ...


@dataclass(frozen=True)
class Engine:
    """docker or podman with a running engine and its own store."""

    name: str
    fetches: bool = True

    def build(self, work: Work, image: str, dockerfile: Path, context: Path, archive: Path) -> None:
        argv = [self.name, "build", "--tag", image, "--file", str(dockerfile), str(context)]
        work.run(argv, limit_s=_BUILD_LIMIT_S)
        self.save(work, image, archive)

    def load(self, work: Work, archive: Path) -> None:
        work.run([self.name, "load", "--input", str(archive)], limit_s=600)

    def forget(self, work: Work, name: str) -> None:
        with suppress(CommandFailed):
            work.run([self.name, "rmi", name], limit_s=120)

    def push(self, work: Work, archive: Path, name: str, target: str) -> None:
        self.load(work, archive)
        work.run([self.name, "tag", name, target], limit_s=60)
        work.run([self.name, "push", target], limit_s=900)

    def fetch(self, work: Work, image: str, archive: Path) -> None:
        """Pull a published image and write it to an archive."""
        work.run([self.name, "pull", image], limit_s=900)
        self.save(work, image, archive)

    def save(self, work: Work, image: str, archive: Path) -> None:
        """Write an image of the engine's store to an archive."""
        partial = archive.with_name(f".{archive.name}")
        work.run([self.name, "save", "--output", str(partial), image], limit_s=600)
        partial.replace(archive)


class Buildah:
    """buildah with a store of its own in the cache; nothing is fetched from a registry."""

    name = "buildah"
    fetches = False

    def __init__(self, places: Places) -> None:
        self._places = places
        self._lock = threading.Lock()
        self._driver = ""

    def build(self, work: Work, image: str, dockerfile: Path, context: Path, archive: Path) -> None:
        mounts: list[str] = []
        for source, inside in write_build_files(self._places.configuration / "build").items():
            mounts += ["--volume", f"{source}:{inside}:ro"]
        argv = [*self._buildah(), "bud", "--isolation", "chroot", "--layers", "--pull-never"]
        argv += [*mounts, "--tag", image, "--file", str(dockerfile), str(context)]
        work.run(argv, limit_s=_BUILD_LIMIT_S, env=self._environment())
        partial = archive.with_name(f".{archive.name}")
        partial.unlink(missing_ok=True)
        argv = [*self._buildah(), "push", image, f"docker-archive:{partial}:{image}"]
        work.run(argv, limit_s=600, env=self._environment())
        partial.replace(archive)

    def load(self, work: Work, archive: Path) -> None:
        argv = [*self._buildah(), "pull", "--quiet", f"docker-archive:{archive}"]
        work.run(argv, limit_s=600, env=self._environment())

    def forget(self, work: Work, name: str) -> None:
        with suppress(CommandFailed):
            work.run([*self._buildah(), "rmi", name], limit_s=120, env=self._environment())

    def push(self, work: Work, archive: Path, name: str, target: str) -> None:
        self.load(work, archive)
        argv = [*self._buildah(), "push", name, f"docker://{target}"]
        work.run(argv, limit_s=900, env=self._environment())

    def _buildah(self) -> list[str]:
        root, run = self._places.cache / "buildah", self._places.state / "buildah"
        store = ["buildah", "--root", str(root), "--runroot", str(run)]
        with self._lock:
            if not self._driver:
                self._driver = self._find_driver(store)
        return [*store, "--storage-driver", self._driver]

    def _find_driver(self, store: Sequence[str]) -> str:
        """overlay where the file system can, else vfs, which copies every layer whole."""
        with suppress(CommandFailed):
            ask([*store, "--storage-driver", "overlay", "images"], limit_s=30, env=_clean())
            return "overlay"
        return "vfs"

    def _environment(self) -> dict[str, str]:
        folder = self._places.state / "buildah-tmp"
        folder.mkdir(parents=True, exist_ok=True)
        return {"TMPDIR": str(folder)}


def _clean() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "STORAGE_DRIVER"}


def find_builder(places: Places) -> Builder:
    """Return the first engine that works, else buildah."""
    return find_engine() or Buildah(places)


def find_engine() -> Engine | None:
    """Return docker or podman where the program is there and its engine answers within 5 s."""
    for name in _ENGINES:
        if shutil.which(name):
            with suppress(CommandFailed):
                ask([name, "info"], limit_s=5)
                return Engine(name)
    return None
