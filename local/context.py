"""What goes into an image: the sources that its Dockerfile copies, their hash, a staged copy.

The image is built from a folder that holds exactly what was hashed and nothing else, so the tag
says what is inside, and a file that no Dockerfile copies cannot change it.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from local.errors import LocalError

# Made by tools beside the sources; never part of an image.
_NOT_SOURCES = re.compile(
    r"(^|/)(\.git|\.venv|__pycache__|\.[a-z]+_cache|[^/]*\.egg-info|\.DS_Store)(/|$)|\.py[co]$"
)


@dataclass(frozen=True)
class Context:
    """A build context: a folder, the Dockerfile in it, and the files that the image is made of."""

    folder: Path
    dockerfile: Path
    files: tuple[Path, ...]  # relative to folder, sorted, without the Dockerfile

    def hash(self, *further: str) -> str:
        """Hash names, contents and executable bits, with whatever else the image depends on."""
        digest = hashlib.sha256(repr(further).encode())
        for name in (self.dockerfile.relative_to(self.folder), *self.files):
            path = self.folder / name
            executable = bool(path.stat().st_mode & stat.S_IXUSR)
            content = path.read_bytes()
            digest.update(f"{name}\0{executable}\0{len(content)}\0".encode() + content)
        return digest.hexdigest()[:12]

    def stage(self, target: Path) -> Path:
        """Copy everything to an empty folder; return the Dockerfile there."""
        shutil.rmtree(target, ignore_errors=True)
        name = self.dockerfile.relative_to(self.folder)
        for each in (name, *self.files):
            source, copy = self.folder / each, target / each
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)
            copy.chmod(0o755 if source.stat().st_mode & stat.S_IXUSR else 0o644)
        for folder in (target, *(each for each in target.rglob("*") if each.is_dir())):
            folder.chmod(0o755)
        return target / name


def read_context(folder: Path, dockerfile: Path) -> Context:
    """Find the files that a Dockerfile copies. Raises LocalError for a stray name."""
    files: set[Path] = set()
    for source in copied_sources(dockerfile.read_text()):
        found = [each for match in folder.glob(source) for each in _files(match)]
        if not found:
            raise LocalError(f"{dockerfile}: COPY {source}: there is no such file in {folder}")
        files |= {each.relative_to(folder) for each in found}
    kept = sorted(each for each in files if not _NOT_SOURCES.search(each.as_posix()))
    return Context(folder, dockerfile, tuple(kept))


def copied_sources(dockerfile: str) -> list[str]:
    """List the sources of every COPY and ADD that takes from the context (pure).

    >>> copied_sources("FROM x\\nCOPY --chown=1:1 a b \\\\\\n  /c/\\nCOPY --from=x /d /e")
    ['a', 'b']
    """
    sources: list[str] = []
    for line in _instructions(dockerfile):
        word, *rest = line.split()
        if word.upper() not in ("COPY", "ADD") or any(each.startswith("--from=") for each in rest):
            continue
        if any(each.startswith("[") for each in rest):
            raise LocalError(f"write {line!r} without brackets: local/ reads the plain form only")
        names = [each for each in rest if not each.startswith("--")]
        sources += [name.strip("/") or "." for name in names[:-1]]
    return sources


def _instructions(dockerfile: str) -> Iterator[str]:
    whole = ""
    for line in dockerfile.splitlines():
        if line.lstrip().startswith("#") or not line.strip():
            continue
        whole += line.rstrip()
        if whole.endswith("\\"):
            whole = whole[:-1] + " "
            continue
        yield whole
        whole = ""


def _files(path: Path) -> Iterable[Path]:
    return (each for each in path.rglob("*") if each.is_file()) if path.is_dir() else (path,)
