"""Running programs: output goes to the step's log, a limit and a cancel reach every one of them."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from local.errors import Cancelled, CommandFailed

_POLL_S = 0.05


def tail(path: Path, lines: int = 20, limit_bytes: int = 16384) -> str:
    """Read the last lines of a file; "" when there is none."""
    with suppress(FileNotFoundError), path.open("rb") as stream:
        stream.seek(0, os.SEEK_END)
        stream.seek(max(0, stream.tell() - limit_bytes))
        return "\n".join(stream.read().decode("utf-8", "replace").splitlines()[-lines:])
    return ""


def ask(argv: Sequence[str], *, limit_s: float = 10.0, env: Mapping[str, str] | None = None) -> str:
    """Return what a quick program prints; raises CommandFailed on an error or over the limit."""
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=limit_s,
            check=False,
            env=dict(env) if env is not None else None,
            text=True,
            errors="replace",
        )
    except subprocess.TimeoutExpired:
        raise CommandFailed(argv, f"took longer than {limit_s:.0f} s") from None
    except OSError as error:
        raise CommandFailed(argv, f"could not be started: {error.strerror}") from error
    if done.returncode:
        raise CommandFailed(argv, f"ended with {done.returncode}", done.stderr or done.stdout)
    return done.stdout


class Work:
    """What a step is given: its log, and a way to run programs that stops when the step must."""

    def __init__(self, name: str, log: Path, cancelled: threading.Event) -> None:
        self.name = name
        self.log = log
        self.cancelled = cancelled
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("")

    def say(self, text: str) -> None:
        """Write a line to the step's log."""
        with self.log.open("a") as stream:
            stream.write(text + "\n")

    def check(self) -> None:
        """Raise Cancelled if the step must stop."""
        if self.cancelled.is_set():
            raise Cancelled(f"{self.name} was stopped")

    def wait(self, seconds: float) -> None:
        """Wait between two looks at something; raises Cancelled at once when the step must stop."""
        if self.cancelled.wait(seconds):
            self.check()

    def run(
        self,
        argv: Sequence[str],
        *,
        limit_s: float = 1800.0,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdin: str | None = None,
        stdout: Path | None = None,
    ) -> None:
        """Run a program to its end, output to the log (or standard output to a file).

        The environment is this process's own with env's values over it. Raises CommandFailed,
        or Cancelled after ending the program and all that it started.
        """
        self.check()
        self.say(f"$ {shlex.join(str(part) for part in argv)}")
        environment = {**os.environ, **(env or {})}
        with self.log.open("ab") as log, (stdout or Path(os.devnull)).open("wb") as out:
            try:
                process = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
                    stdout=out if stdout else log,
                    stderr=log,
                    env=environment,
                    cwd=cwd,
                    start_new_session=True,
                )
            except OSError as error:
                raise CommandFailed(argv, f"could not be started: {error.strerror}") from error
            if stdin is not None and process.stdin is not None:
                with suppress(BrokenPipeError), process.stdin:
                    process.stdin.write(stdin.encode())
            self._wait_for(process, argv, limit_s)

    def _wait_for(
        self, process: subprocess.Popen[bytes], argv: Sequence[str], limit_s: float
    ) -> None:
        deadline = time.monotonic() + limit_s
        while process.poll() is None:
            late = time.monotonic() > deadline
            if late or self.cancelled.wait(_POLL_S):
                _end_group(process)
                self.check()
                raise CommandFailed(argv, f"took longer than {limit_s:.0f} s", tail(self.log))
        if process.returncode:
            raise CommandFailed(argv, f"ended with {process.returncode}", tail(self.log))


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End a program and what it started: it leads a session and group of its own."""
    for number, limit_s in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(limit_s)
            return
