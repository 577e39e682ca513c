"""Daemons that outlive `up`: recorded by pid and start time, stopped by that record alone.

A pid may be given to another program after its owner's end, and all pids after a reboot. So a
record holds the process's start time (field 22 of /proc/PID/stat, in clock ticks since boot) and
the id of the boot; a process is ours only where all three agree. No process is ever looked up by
its name.
"""

from __future__ import annotations

import hashlib
import json
import os
import select
import signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

_LOG_LIMIT_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True)
class Record:
    """A daemon that we started."""

    name: str
    pid: int
    started: int  # clock ticks after boot
    boot: str
    fingerprint: str  # of program, arguments and configuration

    def is_alive(self) -> bool:
        """Whether this very process still runs."""
        return self.boot == boot_id() and start_time(self.pid) == self.started


def boot_id() -> str:
    """Identify this boot of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks after boot; None if it is gone or a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is the program's name in parentheses and may hold spaces and parentheses.
    state, *fields = text[text.rindex(")") + 2 :].split()
    return None if state in "ZX" else int(fields[18])


def make_fingerprint(argv: Sequence[str], env: Mapping[str, str], inputs: Iterable[Path]) -> str:
    """Hash what a daemon runs: it is started again when any of it changes."""
    digest = hashlib.sha256(json.dumps([list(argv), sorted(env.items())]).encode())
    for path in inputs:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


class Daemons:
    """The records in one folder, and the processes behind them."""

    def __init__(self, records: Path, logs: Path) -> None:
        self._records = records
        self._logs = logs

    def log(self, name: str) -> Path:
        """Where a daemon's output goes."""
        return self._logs / f"{name}.log"

    def find(self, name: str) -> Record | None:
        """Return the record of a daemon; None when there is none, or none that can be read."""
        try:
            return Record(**json.loads(self._path(name).read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def names(self) -> list[str]:
        """Names of all recorded daemons, alive or not, the first started first."""
        if not self._records.is_dir():
            return []
        paths = sorted(self._records.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        return [path.stem for path in paths]

    def ensure(
        self,
        name: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        inputs: Iterable[Path] = (),
    ) -> bool:
        """Have the daemon running with exactly this; return whether it had to be started."""
        fingerprint = make_fingerprint(argv, env or {}, inputs)
        record = self.find(name)
        if record and record.is_alive():
            if record.fingerprint == fingerprint:
                return False
            self.stop(name)
        self._start(name, argv, env or {}, fingerprint)
        return True

    def stop(self, name: str, *, grace_s: float = 10.0) -> bool:
        """End a daemon, after the grace time by force; return whether it was running."""
        record = self.find(name)
        was_alive = record is not None and _end(record, grace_s)
        self._path(name).unlink(missing_ok=True)
        return was_alive

    def _path(self, name: str) -> Path:
        return self._records / f"{name}.json"

    def _start(
        self, name: str, argv: Sequence[str], env: Mapping[str, str], fingerprint: str
    ) -> None:
        log = self.log(name)
        if log.exists() and log.stat().st_size > _LOG_LIMIT_BYTES:
            log.replace(log.with_suffix(".log.old"))
        with log.open("ab") as out:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env={**os.environ, **env},
                cwd="/",
                start_new_session=True,
            )
        started = start_time(process.pid)
        record = Record(name, process.pid, started or 0, boot_id(), fingerprint)
        self._path(name).write_text(json.dumps(asdict(record)))


def _end(record: Record, grace_s: float) -> bool:
    """Send TERM, then KILL, through a pidfd: the pid cannot change hands in between."""
    try:
        handle = os.pidfd_open(record.pid)
    except ProcessLookupError:
        return False
    try:
        if not record.is_alive():
            return False
        for number, limit_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 5.0)):
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, number)
            # A pidfd becomes readable when its process ends.
            if select.select([handle], [], [], limit_s)[0]:
                break
        return True
    finally:
        os.close(handle)
        with suppress(ChildProcessError):
            os.waitpid(record.pid, os.WNOHANG)  # ours if the same `up` started it
