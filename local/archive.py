"""Image archives in docker's format, made from files or from a root file system.

The format is a tar with manifest.json, a configuration and one tar per layer; containerd,
buildah, docker and podman all read it.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True)
class ImageConfig:
    """What the image's configuration says; user as uid:gid, empty for root."""

    machine: str  # as os.uname().machine has it
    entrypoint: Sequence[str] = ()
    command: Sequence[str] = ()
    user: str = ""
    environment: Mapping[str, str] = field(
        default_factory=lambda: {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        }
    )

    def render(self, layer_digest: str) -> bytes:
        """Render the configuration of an image of one layer; equal input, equal bytes."""
        config: dict[str, object] = {
            "Env": [f"{name}={value}" for name, value in self.environment.items()],
            "User": self.user,
        }
        if self.entrypoint:
            config["Entrypoint"] = list(self.entrypoint)
        if self.command:
            config["Cmd"] = list(self.command)
        whole = {
            "architecture": _ARCHITECTURES.get(self.machine, self.machine),
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer_digest}"]},
            "history": [{"created": "1970-01-01T00:00:00Z"}],
        }
        return json.dumps(whole, sort_keys=True).encode()


def make_layer(path: Path, files: Mapping[str, Path]) -> None:
    """Write a layer of programs: name inside the image to file on this machine."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, source in sorted(files.items()):
            member = tarfile.TarInfo(name.lstrip("/"))
            member.size = source.stat().st_size
            member.mode = 0o755
            with source.open("rb") as stream:
                tar.addfile(member, stream)


def write_image(path: Path, name: str, layer: Path, config: ImageConfig) -> None:
    """Write an archive of one image with one layer; path appears only when it is complete."""
    with layer.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    configuration = config.render(digest)
    config_name = f"{hashlib.sha256(configuration).hexdigest()}.json"
    manifest = [{"Config": config_name, "RepoTags": [name], "Layers": [f"{digest}/layer.tar"]}]
    partial = path.with_name(f".{path.name}")
    with tarfile.open(partial, "w") as tar:
        _add(tar, config_name, configuration)
        _add(tar, "manifest.json", json.dumps(manifest).encode())
        member = tarfile.TarInfo(f"{digest}/layer.tar")
        member.size = layer.stat().st_size
        with layer.open("rb") as stream:
            tar.addfile(member, stream)
    partial.replace(path)


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
