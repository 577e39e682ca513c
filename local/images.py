"""The images of the demo: ours from images/, the base and CHP; each tagged by what is in it."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from local import versions
from local.bases import debian_archive, ensure_debian
from local.binaries import locked
from local.builders import Buildah, Builder, Engine
from local.commands import Work
from local.containers import ensure_imported
from local.context import Context, read_context
from local.places import Places

REPOSITORY = "ghcr.io/jupyterhub-comet"
OURS = ("hub", "tunnelbot", "slurm")
_KEPT_ARCHIVES = 3  # of one image, the newest


@dataclass(frozen=True)
class Image:
    """An image to be built: its name with tag, and the archive that it is kept in."""

    name: str
    archive: Path
    context: Context

    @property
    def tag(self) -> str:
        """What stands behind the last colon of the name."""
        return self.name.rpartition(":")[2]


def our_image(places: Places, which: str, builder: Builder) -> Image:
    """Describe hub, tunnelbot or slurm as the checkout has it now."""
    dockerfile = places.repository / "images" / which / "Dockerfile"
    context = read_context(places.repository, dockerfile)
    key = context.hash(_base_key(places, builder))
    name = f"{REPOSITORY}/{which}:{project_version(places)}-{key}"
    return Image(name, places.archives / f"{which}-{key}.tar", context)


def proxy_image(places: Places, builder: Builder) -> Image:
    """Describe configurable-http-proxy under its published name."""
    folder = places.repository / "local" / "chp"
    context = read_context(folder, folder / "Dockerfile")
    key = context.hash(_base_key(places, builder), versions.CONFIGURABLE_HTTP_PROXY)
    return Image(versions.PROXY_IMAGE, places.archives / f"chp-{key}.tar", context)


def project_version(places: Places) -> str:
    """Read the version from pyproject.toml."""
    with (places.repository / "pyproject.toml").open("rb") as stream:
        return str(tomllib.load(stream)["project"]["version"])


def ensure_base(places: Places, builder: Builder, work: Work) -> str:
    """Have debian:trixie-slim where the builder finds it; an engine fetches it by itself."""
    if builder.fetches:
        return f"{builder.name} fetches it"
    word = ensure_debian(places, work)
    archive = debian_archive(places)
    # Kept beside the builder's store: the two come and go together.
    mark = places.cache / "buildah" / f"loaded-{archive.stem}"
    if not mark.exists():
        builder.load(work, archive)
        mark.touch()
    return word


def ensure_built(places: Places, builder: Builder, image: Image, work: Work) -> str:
    """Build an image unless its archive is in the cache; return a word for the progress line."""
    with locked(places, image.archive.name):
        if image.archive.exists():
            image.archive.touch()  # its turn to be removed is put off
            return f"cached {image.tag}"
        if isinstance(builder, Engine) and image.name == versions.PROXY_IMAGE:
            builder.fetch(work, image.name, image.archive)
            return f"fetched {image.tag}"
        staged = places.state / "build" / image.archive.stem
        dockerfile = image.context.stage(staged)
        builder.build(work, image.name, dockerfile, staged, image.archive)
    _forget_old(builder, image, work)
    return f"built {image.tag} with {builder.name}"


def ensure_in_cluster(places: Places, image: Image, work: Work) -> str:
    """Import an image into the local cluster; return a word for the progress line."""
    return "imported" if ensure_imported(places, work, image.name, image.archive) else "there"


def ensure_base_in_cluster(places: Places, builder: Builder, work: Work) -> str:
    """Import the base image too: plain pods of tests and of the curious run from it."""
    if not isinstance(builder, Buildah):
        return "left out"
    archive = debian_archive(places)
    imported = ensure_imported(places, work, versions.DEBIAN_IMAGE, archive)
    return "imported" if imported else "there"


def _base_key(places: Places, builder: Builder) -> str:
    return "published" if builder.fetches else debian_archive(places).stem


def _forget_old(builder: Builder, image: Image, work: Work) -> None:
    """Remove all but the newest archives of an image, and the builder's copies of the others."""
    which, _, key = image.archive.stem.rpartition("-")
    same = image.archive.parent.glob(f"{which}-*.tar")
    for old in sorted(same, key=lambda path: path.stat().st_mtime)[:-_KEPT_ARCHIVES]:
        old.unlink(missing_ok=True)
        if key in image.tag:
            builder.forget(work, image.name.replace(key, old.stem.rpartition("-")[2]))
