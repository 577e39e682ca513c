"""containerd: what images it has, and how archives get into it."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

from local import binaries
from local.archive import ImageConfig, make_layer, write_image
from local.commands import Work, ask
from local.errors import CommandFailed
from local.places import Places

MACHINE = os.uname().machine
# The kubelet's images are in this namespace of containerd.
_NAMESPACE = "k8s.io"
_imports = threading.Lock()  # guards the list of imports


def ctr(places: Places) -> list[str]:
    """Start of a ctr command line for our containerd."""
    return ["ctr", "--address", str(places.containerd_socket), "--namespace", _NAMESPACE]


def is_answering(places: Places) -> bool:
    """Whether our containerd answers."""
    try:
        ask([*ctr(places), "version"], limit_s=5)
    except CommandFailed:
        return False
    return True


def ensure_imported(places: Places, work: Work, name: str, archive: Path) -> bool:
    """Have the image of this archive in containerd; return whether it had to be imported.

    The archive's file name holds the hash of what it was made from, so an import under the same
    image name is done again only when the archive is another one.
    """
    record = _record(places)
    present = ask([*ctr(places), "images", "list", "--quiet", f"name=={name}"], limit_s=30)
    with _imports:
        if present.strip() and _read(record).get(name) == archive.name:
            return False
    # Only our own platform is there; unpacking now makes the first pod start at once.
    work.run([*ctr(places), "images", "import", str(archive)], limit_s=600)
    with _imports:
        record.write_text(json.dumps({**_read(record), name: archive.name}, indent=1))
    return True


def ensure_program_image(
    places: Places, work: Work, program: binaries.Program, name: str, config: ImageConfig
) -> str:
    """Make and import an image that holds nothing but one static program."""
    built = binaries.program_path(places, program)
    archive = places.archives / f"{built.name}.tar"
    with binaries.locked(places, archive.name):
        if not archive.exists():
            layer = archive.with_suffix(".layer")
            make_layer(layer, {program.name: built})
            write_image(archive, name, layer, config)
            layer.unlink()
    return "imported" if ensure_imported(places, work, name, archive) else "there"


def forget_images(places: Places, work: Work, archives: Path) -> None:
    """Remove the images whose archives are gone: each was replaced several times since."""
    with _imports:
        known = _read(_record(places))
        gone = [name for name, archive in known.items() if not (archives / archive).exists()]
        for name in gone:
            work.run([*ctr(places), "images", "remove", name], limit_s=60)
            del known[name]
        _record(places).write_text(json.dumps(known, indent=1))


def _record(places: Places) -> Path:
    return places.cache / "containerd" / "imported.json"


def _read(record: Path) -> dict[str, str]:
    try:
        found = json.loads(record.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
