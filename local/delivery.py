"""How images that were built here get to a cluster that is not ours."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from local.builders import Builder, Engine
from local.commands import Work
from local.errors import LocalError

# Their nodes use the very store of the docker engine on this machine.
_SHARED_STORE = ("docker-desktop", "rancher-desktop", "orbstack", "colima")


@dataclass(frozen=True)
class Delivery:
    """A way to a cluster: a command that loads an archive, or a registry that both reach."""

    context: str
    registry: str = ""

    def image_name(self, name: str) -> str:
        """Return the name by which the cluster will know the image."""
        return f"{self.registry}/{name.rpartition('/')[2]}" if self.registry else name

    def load_command(self, archive: Path) -> list[str]:
        """Return the command that puts an archive on the cluster's nodes (pure); [] for none.

        Raises LocalError where there is no way, with what to do.
        """
        kind, _, cluster = self.context.partition("-")
        if self.registry or self.context in _SHARED_STORE:
            return []
        if kind == "kind" and cluster:
            return ["kind", "load", "image-archive", str(archive), "--name", cluster]
        if kind == "k3d" and cluster:
            return ["k3d", "image", "import", str(archive), "--cluster", cluster]
        if self.context == "minikube":
            return ["minikube", "image", "load", str(archive)]
        raise LocalError(
            f"no way is known to bring images to the cluster of context {self.context!r}: set"
            " COMET_REGISTRY=host/path to a registry that it pulls from, or run"
            " `LOCAL=1 make up` for a Kubernetes on this machine"
        )

    def deliver(self, work: Work, builder: Builder, name: str, archive: Path) -> str:
        """Bring one image to the cluster; return a word for the progress line."""
        if command := self.load_command(archive):
            work.run(command, limit_s=900)
            return "loaded"
        if not self.registry:
            if not isinstance(builder, Engine):
                raise LocalError(f"context {self.context!r} needs docker's engine to build images")
            builder.load(work, archive)
            return "in the engine's store"
        builder.push(work, archive, name, self.image_name(name))
        return f"pushed to {self.registry}"
