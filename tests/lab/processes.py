"""Processes that the lab starts and ends, each known by pid and start time.

A pid alone is not an identity: it is used again. Together with the start time (clock ticks
since boot, /proc/PID/stat field 22) it is one, so that a lab left behind by a crash can be
ended without touching anybody else's process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from .logs import LOGS, tail
from .waiting import LabBroken, wait_for


@dataclass(frozen=True)
class Identity:
    """One process for all time (until the next boot)."""

    pid: int
    start_ticks: int
    boot_id: str

    @classmethod
    def of(cls, pid: int) -> Identity | None:
        """The identity of a live process; None if there is none (a zombie is none)."""
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return None
        # The name in parentheses may itself hold spaces and parentheses.
        state, *fields = stat.rpartition(")")[2].split()
        if state in "ZX":
            return None
        return cls(pid, int(fields[18]), boot_id())

    def alive(self) -> bool:
        """Whether exactly this process still runs."""
        return Identity.of(self.pid) == self

    def end(self, grace_s: float = 5) -> None:
        """TERM, then KILL after ``grace_s`` seconds; returns when the process is gone."""
        for number, limit_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 10)):
            if not self.alive():
                return
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return
            try:
                wait_for(lambda: not self.alive(), "a process to end", limit_s=limit_s)
            except LabBroken:
                continue
        if self.alive():
            raise LabBroken(f"process {self.pid} survived SIGKILL")


def boot_id() -> str:
    """The kernel's id of this boot: start times are comparable only within one."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def recorded(folder: Path) -> list[Identity]:
    """Identities of the processes recorded in a lab folder, newest first."""
    files = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    return [Identity(**json.loads(path.read_text())) for path in files]


def with_environment(name: str, value: str) -> list[Identity]:
    """Live processes whose environment has exactly ``name=value``: a job's steps, for example."""
    needle = f"{name}={value}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            variables = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue  # ended meanwhile
        if needle in variables and (identity := Identity.of(int(entry.name))):
            found.append(identity)
    return found


def descendants(pid: int) -> list[Identity]:
    """Live children of a process, their children, and so on."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # ended meanwhile
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found: list[Identity] = []
    waiting = [pid]
    while waiting:
        children = parents.get(waiting.pop(), [])
        waiting += children
        found += [identity for child in children if (identity := Identity.of(child))]
    return found


class Process:
    """A program in the foreground of its own session, its output in a log file.

    Args:
        name: shown in reports; also the name of log and pid record.
        argv: command and arguments.
        records: folder for the pid record.
        log: file that takes standard output and standard error, appended to at each start.
        env: the whole environment of the process.
        cwd: working folder.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        records: Path,
        log: Path,
        env: Mapping[str, str],
        cwd: Path | None = None,
    ) -> None:
        self.name = name
        self.argv = [str(word) for word in argv]
        self.log = log
        self.env = dict(env)
        self._cwd = cwd
        self._record = records / f"{name}.json"
        self._popen: subprocess.Popen[bytes] | None = None
        self.identity: Identity | None = None

    @property
    def pid(self) -> int:
        """Process id of the running process."""
        if self.identity is None:
            raise LabBroken(f"{self.name} is not running")
        return self.identity.pid

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._popen is not None and self._popen.poll() is None

    def start(self) -> None:
        """Start the process; returns at once, see :meth:`wait_ready`."""
        if self.running:
            raise LabBroken(f"{self.name} is already running")
        LOGS.add(self.name, self.log)
        with self.log.open("ab") as out:
            self._popen = subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=self.env,
                cwd=self._cwd,
                start_new_session=True,
            )
        self.identity = Identity.of(self._popen.pid)
        if self.identity is not None:
            self._record.write_text(json.dumps(asdict(self.identity)))

    def wait_ready(self, check: Callable[[], object], *, limit_s: float) -> None:
        """Poll ``check`` until it is true.

        Raises:
            LabBroken: the process ended, or the limit was reached; with the end of its log.
        """

        def ready_or_dead() -> bool:
            return not self.running or bool(check())

        try:
            wait_for(ready_or_dead, f"{self.name} to be ready", limit_s=limit_s)
        except LabBroken as exc:
            raise LabBroken(f"{exc}; its log ends:\n{tail(self.log, 30)}") from exc
        if not self.running:
            status = self._popen.returncode if self._popen else "none"
            raise LabBroken(
                f"{self.name} ended with status {status}; its log ends:\n{tail(self.log, 30)}"
            )

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, for example SIGSTOP and SIGCONT."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL, and wait until the process is gone."""
        if self._popen is not None:
            self._popen.kill()
        self._reap()

    def stop(self, grace_s: float = 10) -> None:
        """TERM, after ``grace_s`` seconds KILL; nothing to do is no error."""
        if self._popen is not None and self.running:
            self._popen.terminate()
            try:
                self._popen.wait(grace_s)
            except subprocess.TimeoutExpired:
                self._popen.kill()
        self._reap()

    def _reap(self) -> None:
        if self._popen is not None:
            self._popen.wait(10)
        self._popen = None
        self.identity = None
        self._record.unlink(missing_ok=True)
