"""Base images under their published names on a machine that reaches no registry.

`debian:trixie-slim` is made by mmdebstrap from Debian's own packages, with the exclusions that
make the published image slim.
"""

from __future__ import annotations

import os
from pathlib import Path

from local import versions
from local.archive import ImageConfig, write_image
from local.binaries import hash_files, locked
from local.commands import Work
from local.machine import Mirrors, find_apt_options, find_mirrors
from local.places import Places

_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_SLIM = (
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
)


def debian_archive(places: Places) -> Path:
    """Where the archive is, or will be: named by how it is made."""
    return places.archives / f"debian-{versions.DEBIAN_SUITE}-{_recipe()}.tar"


def ensure_debian(places: Places, work: Work) -> str:
    """Make the base image's archive unless it is in the cache."""
    archive = debian_archive(places)
    with locked(places, archive.name):
        if archive.exists():
            return "cached"
        layer = archive.with_suffix(".layer")
        work.run(render_command(layer, find_mirrors(), find_apt_options()), limit_s=900)
        config = ImageConfig(os.uname().machine, command=["bash"])
        write_image(archive, versions.DEBIAN_IMAGE, layer, config)
        layer.unlink()
    return "made"


def render_command(layer: Path, mirrors: Mirrors, apt_options: list[str]) -> list[str]:
    """Render the mmdebstrap command line (pure)."""
    suite = versions.DEBIAN_SUITE
    argv = ["mmdebstrap", "--variant=minbase", "--mode=root", "--format=tar"]
    argv += [f"--keyring={_KEYRING}"]
    argv += [f"--dpkgopt={option}" for option in _SLIM]
    argv += [f"--aptopt={option}" for option in apt_options]
    argv += [suite, str(layer)]
    if mirrors.main:
        argv += [f"deb {mirrors.main} {name} main" for name in (suite, f"{suite}-updates")]
    if mirrors.main and mirrors.security:
        argv += [f"deb {mirrors.security} {suite}-security main"]
    return argv


def _recipe() -> str:
    recipe = repr(render_command(Path("layer"), Mirrors(), [])).encode()
    return hash_files({"recipe": lambda: recipe})[:8]
