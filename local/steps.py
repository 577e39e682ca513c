"""Steps that overlap where none needs the other, each with its log, its time and its errors."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from local.causes import guess_cause
from local.commands import Work, tail
from local.errors import Cancelled, CommandFailed, LocalError

_STILL_S = 20.0  # how often the steps that are under way are named again


@dataclass(frozen=True)
class Step:
    """A named piece of work; run returns a few words on what it did, for the progress line."""

    name: str
    run: Callable[[Work], str]
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Failure:
    """A failed step and all that helps to repair it."""

    step: str
    log: Path
    error: BaseException

    def render(self) -> str:
        """Say which step failed, why probably, where its log is, and the log's last lines."""
        lines = tail(self.log)
        output = self.error.output if isinstance(self.error, CommandFailed) else ""
        cause = guess_cause(f"{lines}\n{output}\n{self.error}")
        text = [f"FAILED: {self.step}: {self.error}", f"  log: {self.log}"]
        text += [f"  | {line}" for line in lines.splitlines()]
        if cause:
            text += [f"  likely cause: {cause.why}", f"  next step: {cause.then}"]
        elif not lines:
            text += ["  next step: put that right and run it again; it goes on where it stopped"]
        else:
            text += ["  next step: read the log above; `make up` goes on where it stopped"]
        return "\n".join(text)


class StepsFailed(LocalError):
    """At least one step failed; the text is the whole report."""

    def __init__(self, failures: Sequence[Failure]) -> None:
        super().__init__("\n".join(failure.render() for failure in failures))


class Steps:
    """Runs steps, several at a time, and prints a line with the elapsed time for every one."""

    def __init__(self, logs: Path, *, out: TextIO = sys.stdout, workers: int = 4) -> None:
        self._logs = logs
        self._out = out
        self._workers = workers
        self._begin = time.monotonic()

    def elapsed_s(self) -> float:
        """Seconds since this object was made."""
        return time.monotonic() - self._begin

    def say(self, text: str) -> None:
        """Print a line with the elapsed time in front."""
        print(f"{self.elapsed_s():7.1f} s  {text}", file=self._out, flush=True)

    def run(self, steps: Sequence[Step]) -> None:
        """Run all steps, each after those that it needs.

        Raises StepsFailed after the others under way were stopped. Steps that nothing was
        started for yet are left out then.
        """
        _check_graph(steps)
        cancelled = threading.Event()
        waiting = list(steps)
        running: dict[Future[str], tuple[Step, float]] = {}
        done: set[str] = set()
        failures: list[Failure] = []
        with ThreadPoolExecutor(self._workers) as pool:
            try:
                while running or (waiting and not failures):
                    if not failures:
                        self._start(pool, waiting, running, done, cancelled)
                    ended, _ = wait(running, timeout=_STILL_S, return_when=FIRST_COMPLETED)
                    if not ended:
                        self._say_still(running)
                    for future in ended:
                        step, since = running.pop(future)
                        failure = self._finish(future, step, time.monotonic() - since)
                        if failure is None:
                            done.add(step.name)
                        else:
                            cancelled.set()
                            failures += [failure] * (not isinstance(failure.error, Cancelled))
            except BaseException:
                cancelled.set()
                raise
        if failures:
            raise StepsFailed(failures)

    def _start(
        self,
        pool: ThreadPoolExecutor,
        waiting: list[Step],
        running: dict[Future[str], tuple[Step, float]],
        done: set[str],
        cancelled: threading.Event,
    ) -> None:
        for step in [each for each in waiting if done.issuperset(each.needs)]:
            if len(running) >= self._workers:
                return
            waiting.remove(step)
            work = Work(step.name, self._log(step), cancelled)
            running[pool.submit(step.run, work)] = (step, time.monotonic())

    def _finish(self, future: Future[str], step: Step, took_s: float) -> Failure | None:
        error = future.exception()
        if error is None:
            self.say(f"{step.name}: {future.result()} ({took_s:.1f} s)")
            return None
        if not isinstance(error, LocalError | OSError):
            raise error  # a fault of ours: the traceback is what helps
        if not isinstance(error, Cancelled):
            self.say(f"{step.name}: failed after {took_s:.1f} s")
        return Failure(step.name, self._log(step), error)

    def _say_still(self, running: dict[Future[str], tuple[Step, float]]) -> None:
        now = time.monotonic()
        names = [f"{step.name} ({now - since:.0f} s)" for step, since in running.values()]
        self.say(f"still at work: {', '.join(names)}")

    def _log(self, step: Step) -> Path:
        return self._logs / f"step-{step.name.replace(' ', '-').replace('/', '-')}.log"


def _check_graph(steps: Sequence[Step]) -> None:
    """Refuse a need that no step fulfils or that comes later in the list."""
    known: set[str] = set()
    for step in steps:
        missing = set(step.needs) - known
        if missing:
            raise ValueError(f"step {step.name!r} needs {sorted(missing)}, which no earlier one is")
        known.add(step.name)
