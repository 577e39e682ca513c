"""Start daemons in order, wait until each answers, and end them all when one ends.

Invariants: a daemon starts only after the one before it has answered; each line of output is
printed whole, with its daemon's name in front; after `run_until_end` nothing is left running.
"""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO

from demo_slurm.commands import DemoBroken

POLL_S = 0.2
STOP_S = 8.0  # a daemon's time to save its state; Kubernetes gives the pod 30 s in all


@dataclass(frozen=True)
class Daemon:
    """One long-running program.

    Args:
        name: stands in front of each line that it prints.
        argv: how it runs in the foreground.
        is_ready: asks it whether it serves; polled until it says yes.
        user: the account that it runs as; None is root.
        ready_limit_s: seconds until it counts as broken.
    """

    name: str
    argv: Sequence[str]
    is_ready: Callable[[], bool]
    user: str | None = None
    ready_limit_s: float = 60.0


class Supervisor:
    """Holds the running daemons in the order of their start."""

    def __init__(self) -> None:
        self._running: list[tuple[str, subprocess.Popen[bytes]]] = []
        self._stop = threading.Event()
        self._output = threading.Lock()

    def stop_on_signals(self) -> None:
        """Make TERM and INT end the daemons in order instead of this program at once."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: self._stop.set())

    @property
    def stopping(self) -> bool:
        """True once a signal has asked for the end."""
        return self._stop.is_set()

    def say(self, text: str, *, name: str = "demo-slurm") -> None:
        """Print one line with the speaker's name in front."""
        with self._output:
            sys.stdout.write(f"{name}: {text}\n")
            sys.stdout.flush()

    def wait_for(self, what: str, is_ready: Callable[[], bool], limit_s: float) -> None:
        """Ask until the answer is yes.

        Raises:
            DemoBroken: no yes within limit_s seconds, or a daemon ended meanwhile.
        """
        began = time.monotonic()
        while not self.stopping:
            if is_ready():
                self.say(f"{what} ready after {time.monotonic() - began:.1f} s")
                return
            self._raise_if_one_ended()
            if time.monotonic() - began > limit_s:
                raise DemoBroken(f"{what} did not answer within {limit_s:g} s; see its lines above")
            self._stop.wait(POLL_S)

    def start(self, daemon: Daemon) -> None:
        """Start one daemon and wait until it answers.

        Raises:
            DemoBroken: it cannot run, ended, or did not answer in time.
        """
        if self.stopping:
            return
        try:
            process = subprocess.Popen(
                daemon.argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                user=daemon.user,
                group=daemon.user,
                extra_groups=None if daemon.user is None else [],
            )
        except (OSError, LookupError) as exc:
            raise DemoBroken(f"{daemon.name} cannot be started: {exc}") from exc
        self._running.append((daemon.name, process))
        if process.stdout is not None:
            threading.Thread(
                target=self._relay, args=(daemon.name, process.stdout), daemon=True
            ).start()
        self.wait_for(daemon.name, daemon.is_ready, daemon.ready_limit_s)

    def watch(self) -> None:
        """Return when a signal asks for the end.

        Raises:
            DemoBroken: a daemon ended by itself.
        """
        while not self._stop.wait(POLL_S):
            self._raise_if_one_ended()

    def stop_all(self) -> None:
        """End the daemons, the last one started first; one that ignores TERM is killed."""
        for name, process in reversed(self._running):
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(STOP_S)
                except subprocess.TimeoutExpired:
                    self.say(f"{name} ignored TERM for {STOP_S:g} s and is killed")
                    process.kill()
                    process.wait()
            self.say(f"{name} ended with {process.returncode}")
        self._running.clear()

    def _raise_if_one_ended(self) -> None:
        for name, process in self._running:
            if process.poll() is not None:
                raise DemoBroken(f"{name} ended with {process.returncode}; see its lines above")

    def _relay(self, name: str, pipe: IO[bytes]) -> None:
        for line in pipe:
            self.say(line.decode(errors="replace").rstrip("\r\n"), name=name)
