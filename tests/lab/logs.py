"""Logs of the running parts, and what of them belongs in a failed test's report."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

TAIL_LINES = 60


def tail(path: Path, lines: int = TAIL_LINES, *, since: int = 0) -> str:
    """The last ``lines`` lines written after byte ``since``; a missing file is said so."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            # 400 bytes a line are plenty; a whole debug log is not read for its end.
            file.seek(max(since if since <= size else 0, size - 400 * lines))
            text = file.read().decode(errors="replace")
    except OSError as exc:
        return f"({path.name}: {exc.strerror})"
    return "\n".join(text.splitlines()[-lines:])


class LogBook:
    """Which logs exist, and how long each was when the current test began."""

    def __init__(self) -> None:
        self._paths: dict[str, Path] = {}
        self._sources: list[Callable[[], Iterable[Path]]] = []
        self._marks: dict[Path, int] = {}
        self._marked_at = 0.0

    def add(self, name: str, path: Path) -> None:
        """Show ``path`` under ``name`` when a test fails."""
        self._paths[name] = path

    def add_source(self, source: Callable[[], Iterable[Path]]) -> None:
        """Ask ``source`` for more files, jobs' output for example, when a test fails."""
        self._sources.append(source)

    def forget(self, folder: Path, source: Callable[[], Iterable[Path]] | None = None) -> None:
        """Drop the logs below ``folder`` and one source."""
        self._paths = {
            name: path for name, path in self._paths.items() if folder not in path.parents
        }
        self._sources = [known for known in self._sources if known != source]

    def mark(self) -> None:
        """Remember the lengths: what comes now belongs to the next test."""
        self._marked_at = time.time()
        self._marks = {path: path.stat().st_size for path in self._paths.values() if path.exists()}

    def sections(self) -> list[tuple[str, str]]:
        """(title, text) of everything written since the mark; silent logs are left out."""
        files = list(self._paths.items())
        for source in self._sources:
            files += [
                (f"output of {path.name}", path)
                for path in source()
                if path.stat().st_mtime >= self._marked_at
            ]
        found = []
        for name, path in files:
            text = tail(path, since=self._marks.get(path, 0))
            if text.strip():
                found.append((f"log: {name}", text))
        return found


LOGS = LogBook()
