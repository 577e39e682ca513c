"""What is known of one live server at this moment: its tunnel from the registry, its job from
Slurm's monitor. Look-ups only; nothing here asks Slurm or changes anything.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any

from .context import Cluster, Context
from .errors import JobEnded, SettingsBroken, Unreachable
from .registry import Entry, Tunnel
from .slurm.monitor import JobKey, Verdict
from .slurm.state import Phase
from .state import ServerState

_NOTHING = Verdict(phase=Phase.UNKNOWN, record=None, as_of=None, reason="")


@dataclass(frozen=True)
class View:
    """One server, seen through the hub's shared parts."""

    context: Context
    state: ServerState

    @property
    def entry(self) -> Entry | None:
        """The registry's entry; None once the server has been stopped."""
        return self.context.registry.get(self.state.spawn)

    @property
    def tunnel(self) -> Tunnel | None:
        """The tunnel, while it is up and its pod reports."""
        return self.context.registry.tunnel(self.state.spawn)

    @property
    def cluster(self) -> Cluster:
        """The client and monitor of its cluster; SettingsBroken if that is no longer set."""
        return self.context.cluster(self.state.cluster)

    @property
    def key(self) -> JobKey | None:
        """Names the job for the monitor; None before sbatch has answered."""
        state = self.state
        if not state.job_id:
            return None
        return JobKey(state.cluster, state.job_id, state.account, state.submitted_at)

    def verdict(self) -> Verdict:
        """What is known of the job; never raises."""
        key = self.key
        if key is None:
            return _NOTHING
        try:
            return self.cluster.monitor.verdict(key)
        except SettingsBroken as exc:
            return replace(_NOTHING, reason=str(exc))

    def end(self) -> str:
        """Why the job is over, empty as long as that is not certain.

        Without a trace of the job, a tunnel that is up proves that it runs.
        """
        verdict = self.verdict()
        if verdict.phase is not Phase.ENDED or (verdict.no_trace and self.tunnel is not None):
            return ""
        return verdict.reason or "Slurm says that it has ended"

    def news(self) -> tuple[object, ...]:
        """What a waiting person should hear of at once when it changes."""
        verdict = self.verdict()
        record = verdict.record
        where = (record.reason, record.nodes) if record is not None else None
        return self.state.job_id, verdict.phase, where, self.tunnel

    async def wait_for_news(self, timeout_s: float) -> None:
        """Until the tunnel or the job changes, or the time is up."""
        waits: list[Coroutine[Any, Any, object]] = [
            self.context.registry.wait_for_tunnel_change(self.state.spawn, timeout_s)
        ]
        if self.key is not None:
            waits.append(self.cluster.monitor.wait_for_change(self.key, timeout_s))
        tasks = [asyncio.ensure_future(wait) for wait in waits]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()


async def wait_until_ready(
    look: Callable[[], View], answers: Callable[[Tunnel], Awaitable[bool]]
) -> Tunnel:
    """Wait for the tunnel and the notebook's first answer through it.

    Args:
        look: gives the present view; the server's state changes while this waits.
        answers: asks the notebook once.

    Raises:
        JobEnded: the job, or the server, ended before.
        Unreachable: the job runs, but its notebook did not come up in time.
    """
    running_since: float | None = None
    while True:
        view = look()
        if view.entry is None:
            raise JobEnded("The server was stopped.")
        if end := view.end():
            raise JobEnded(f"Job {view.state.job_id} ended before the notebook answered: {end}")
        tunnel = view.tunnel
        if tunnel is not None and await answers(tunnel):
            return tunnel
        limit_s = view.context.settings.spawn.answer_limit_seconds
        if view.verdict().phase is Phase.RUNNING:
            running_since = running_since or time.monotonic()
            if time.monotonic() - running_since > limit_s:
                raise Unreachable(_silence(view, limit_s))
        if tunnel is None:
            await view.wait_for_news(timeout_s=5)


def _silence(view: View, limit_s: int) -> str:
    job_id, record = view.state.job_id, view.verdict().record
    node = record.nodes if record is not None else "its node"
    what = (
        f"runs on {node} but did not reach the gateway"
        if view.tunnel is None
        else f"on {node} is connected, but its notebook did not answer"
    )
    return (
        f"Job {job_id} {what} in {limit_s} s. "
        f"Its log, jupyter-{job_id}.log in your home directory, says why."
    )
