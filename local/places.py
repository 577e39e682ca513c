"""Where things are: the checkout, the cache of what was built, the state of the cluster."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from local.errors import LocalError


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

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep a second up or down of this state out. Raises LocalError while one runs.

        The lock is in the cache: down removes the state folder as a whole.
        """
        path = self.cache / "locks" / f"state{str(self.state).replace('/', '-')}"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise LocalError(
                    f"another up or down of {self.state} is running: wait for its end"
                ) from None
            yield

    def make(self) -> None:
        """Make the folders. Others may look into the cache; keys and state files are root's."""
        for folder in (self.cache, self.binaries, self.archives, self.state, self.logs):
            folder.mkdir(parents=True, exist_ok=True)
        for folder in (self.records, self.keys, self.configuration):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
