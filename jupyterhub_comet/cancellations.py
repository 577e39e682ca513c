"""Jobs that must go: each is cancelled again and again until Slurm confirms it."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable

from .errors import CometError, Unreachable
from .slurm.client import SlurmClient
from .state import ServerState

log = logging.getLogger(__name__)

_FIRST_PAUSE_S = 2.0
_LONGEST_PAUSE_S = 120.0


class Cancellations:
    """The running cancellations of one hub process."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    async def cancel(
        self, client: Callable[[], SlurmClient], job: ServerState, wait_s: float
    ) -> bool:
        """Cancel a job; go on in the background if that takes longer than `wait_s`.

        Args:
            client: gives the cluster's present client.
            job: without a job id, a job that carries its spawn id is looked for.
            wait_s: seconds to wait here.

        Returns:
            Whether Slurm has confirmed it yet.
        """
        task = asyncio.create_task(self._until_confirmed(client, job))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        done, _ = await asyncio.wait({task}, timeout=wait_s)
        if not done:
            log.warning("job %s of %s is still being cancelled", job.job_id or "?", job.spawn)
        return bool(done)

    async def _until_confirmed(self, client: Callable[[], SlurmClient], job: ServerState) -> None:
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                await self._once(client(), job)
                return
            except Unreachable as exc:
                log.warning("cancelling job %s: %s; trying again", job.job_id or "?", exc)
            except CometError:
                # Refused or unreadable: another try may go better, and a person must see it.
                log.exception("cancelling job %s failed; trying again", job.job_id or "?")
            await asyncio.sleep(pause_s * random.uniform(0.5, 1))  # noqa: S311
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    @staticmethod
    async def _once(client: SlurmClient, job: ServerState) -> None:
        if job.job_id:
            await client.cancel(job.account, job.job_id)
            return
        # Only jobs of the same account that carry this spawn's id: all of them are ours to end.
        for record in await client.find_by_spawn(job.account, job.spawn, job.created_at):
            await client.cancel(job.account, record.job_id)
