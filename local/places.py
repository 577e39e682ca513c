"""Where things are: the checkout, the cache of what was built, the state of the cluster."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Places:
    """Folders of one cluster. The cache may be shared and survives `down`; the state may not."""

    repository: Path
    cache: Path
    state: Path

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Places:
        """Take COMET_CACHE and COMET_STATE, or their defaults outside the checkout."""
        return cls(
            repository=Path(__file__).resolve().parent.parent,
            cache=Path(environment.get("COMET_CACHE") or "/var/cache/jupyterhub-comet").absolute(),
            state=Path(environment.get("COMET_STATE") or "/var/lib/jupyterhub-comet").absolute(),
        )

    @property
    def templates(self) -> Path:
        return self.repository / "local" / "templates"

    @property
    def binaries(self) -> Path:
        return self.cache / "bin"

    @property
    def archives(self) -> Path:
        return self.cache / "images"

    @property
    def logs(self) -> Path:
        return self.state / "log"

    @property
    def records(self) -> Path:
        return self.state / "run"

    @property
    def keys(self) -> Path:
        return self.state / "pki"

    @property
    def configuration(self) -> Path:
        return self.state / "etc"

    @property
    def volumes(self) -> Path:
        return self.state / "volumes"

    @property
    def kubeconfig(self) -> Path:
        return self.state / "kubeconfig"

    @property
    def containerd_socket(self) -> Path:
        return self.state / "containerd.sock"

    def make(self) -> None:
        """Make the folders. Others may look into the cache; keys and state files are root's."""
        for folder in (self.cache, self.binaries, self.archives, self.state, self.logs):
            folder.mkdir(parents=True, exist_ok=True)
        for folder in (self.records, self.keys, self.configuration):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
