"""One view of a cluster's queue for everybody who waits for a job on it.

Invariants:

* one squeue an interval serves all users (one an account where there is no query account);
  nobody's poll logs in anywhere, and a silent cluster is asked ever more slowly.
* `verdict` never waits and never raises. Unknown is not gone: a job ends here by a final state,
  or by two healthy answers, graceSeconds apart, in which nothing knows it.
* a job is (cluster, job id, account, submit time): a record of another account, or one that is
  older than the job, is not this job (T43).
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from jupyterhub_comet.errors import CometError
from jupyterhub_comet.slurm.client import SlurmClient
from jupyterhub_comet.slurm.parse import JobRecord
from jupyterhub_comet.slurm.state import Phase, describe_end

log = logging.getLogger(__name__)

_LONGEST_PAUSE_S = 120.0
# Questions about single jobs that are in flight at a time.
_AT_ONCE = 4


@dataclass(frozen=True)
class JobKey:
    """Which job: its id alone can be another's, or be used again after years."""

    cluster: str
    job_id: str
    account: str
    """The cluster account that submitted it."""
    submit_time: datetime | None = None
    """As Slurm tells it; None until it was seen first."""


@dataclass(frozen=True)
class Verdict:
    """What is known of a job now.

    Attributes:
        phase: UNKNOWN whenever the last question about it was not answered.
        record: the last good record, also while the phase is UNKNOWN.
        as_of: when Slurm last answered about it.
        reason: Slurm's reason code while it waits; a clause for the user once it has ended or
            while nothing is known.
        no_trace: it is ENDED only because nothing knows it; a tunnel that is up proves more.
    """

    phase: Phase
    record: JobRecord | None
    as_of: datetime | None
    reason: str
    no_trace: bool = False


_UNASKED = Verdict(Phase.UNKNOWN, None, None, "Slurm has not been asked yet")


@dataclass
class _Watched:
    """One watched job."""

    key: JobKey
    since: datetime
    verdict: Verdict = _UNASKED
    absent_since: datetime | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class Monitor:
    """Keeps verdicts of the watched jobs of one cluster.

    Args:
        client: asks Slurm.
        cluster: its name in the settings, for the log.
        query_account: the unprivileged account that asks for everybody; empty: each watched
            account asks for its own jobs.
        interval_s: seconds between two questions.
        grace_s: seconds between the first and the last healthy answer without a trace of a
            job, before it is given up.
    """

    def __init__(
        self,
        client: SlurmClient,
        *,
        cluster: str,
        query_account: str,
        interval_s: float = 10.0,
        grace_s: float = 60.0,
    ) -> None:
        self._client = client
        self._cluster = cluster
        self._query_account = query_account
        self._interval_s = interval_s
        self._grace = timedelta(seconds=grace_s)
        self._watched: dict[tuple[str, str], _Watched] = {}
        self._background: asyncio.Task[None] | None = None
        self._round: asyncio.Task[None] | None = None
        self._round_began = -float("inf")
        self._failures = 0
        self._quiet_until = -float("inf")

    def start(self) -> None:
        """Begin to ask in the background."""
        if self._background is None:
            self._background = asyncio.create_task(self._ask_for_ever())

    async def close(self) -> None:
        """Stop asking."""
        tasks = [task for task in (self._background, self._round) if task is not None]
        self._background = self._round = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def verdict(self, key: JobKey) -> Verdict:
        """What is known of a job; watches it from now on."""
        return self._watch(key).verdict

    def forget(self, key: JobKey) -> None:
        """Watch a job no longer."""
        self._watched.pop((key.job_id, key.account), None)

    async def refresh(self, max_age_s: float) -> None:
        """Return when an answer that was asked for within ``max_age_s`` is in.

        All callers share one question. Slurm's silence ends the wait too, and so does a pause
        after it: the verdicts are UNKNOWN then. Never raises but for cancellation.
        """
        loop = asyncio.get_running_loop()
        oldest = loop.time() - max_age_s
        while self._round_began < oldest and loop.time() >= self._quiet_until:
            # One in flight that began too long ago is waited for, then a new one begins.
            await asyncio.wait({self._running_round()})
        if self._round is not None:
            # Not awaited itself: close() cancels it, which is no cancellation of the caller.
            await asyncio.wait({self._round})

    async def wait_for_change(self, key: JobKey, timeout_s: float) -> Verdict:
        """The verdict after its next change of phase, state, reason, nodes or expected start,
        or after ``timeout_s``."""
        watched = self._watch(key)
        try:
            async with asyncio.timeout(timeout_s):
                await watched.changed.wait()
        except TimeoutError:
            pass
        return watched.verdict

    def _watch(self, key: JobKey) -> _Watched:
        known = self._watched.get((key.job_id, key.account))
        if known is None:
            known = _Watched(key, datetime.now(UTC))
            self._watched[key.job_id, key.account] = known
        elif key.submit_time is not None:
            known.key = key
        return known

    async def _ask_for_ever(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if self._watched:
                await self.refresh(max_age_s=self._interval_s / 2)
            pause_s = max(self._interval_s, self._quiet_until - loop.time())
            # Several hubs, or clusters of one hub, must not ask in step.
            await asyncio.sleep(pause_s * random.uniform(0.9, 1.1))  # noqa: S311

    def _running_round(self) -> asyncio.Task[None]:
        if self._round is None or self._round.done():
            self._round_began = asyncio.get_running_loop().time()
            self._round = asyncio.create_task(self._ask_once())
        return self._round

    async def _ask_once(self) -> None:
        try:
            await self._ask()
        except CometError as exc:
            self._silent(list(self._watched.values()), exc)
            self._failures += 1
            pause_s = min(self._interval_s * 2**self._failures, _LONGEST_PAUSE_S)
            pause_s *= random.uniform(0.5, 1)  # noqa: S311
            self._quiet_until = asyncio.get_running_loop().time() + pause_s
            log.warning("cluster %s: %s; asking again in %.0f s", self._cluster, exc, pause_s)
        except Exception:
            # A mistake of ours must not end the polls of everybody.
            log.exception("cluster %s: the queue's state could not be taken", self._cluster)
            self._quiet_until = asyncio.get_running_loop().time() + self._interval_s
        else:
            if self._failures:
                log.info("cluster %s: Slurm answers again", self._cluster)
            self._failures = 0

    async def _ask(self) -> None:
        everybody = list(self._watched.values())
        if self._query_account:
            await self._ask_as(self._query_account, everybody, only_own=False)
            return
        by_account: dict[str, list[_Watched]] = {}
        for watched in everybody:
            by_account.setdefault(watched.key.account, []).append(watched)
        limit = asyncio.Semaphore(_AT_ONCE)
        failures = await asyncio.gather(
            *(self._ask_own(account, theirs, limit) for account, theirs in by_account.items())
        )
        # One account that may not log in says nothing of the others; all of them say enough.
        if failures and all(failures):
            raise next(failure for failure in failures if failure)

    async def _ask_own(
        self, account: str, theirs: list[_Watched], limit: asyncio.Semaphore
    ) -> CometError | None:
        async with limit:
            try:
                await self._ask_as(account, theirs, only_own=True)
            except CometError as exc:
                self._silent(theirs, exc)
                return exc
        return None

    async def _ask_as(self, account: str, jobs: list[_Watched], *, only_own: bool) -> None:
        began = datetime.now(UTC)
        wanted = {watched.key.job_id for watched in jobs}
        records = await self._client.list_jobs(account, only_own=only_own, wanted=wanted)
        by_id = {record.job_id: record for record in records}
        missing = []
        for watched in jobs:
            record = by_id.get(watched.key.job_id)
            if record is not None and _is_of(record, watched.key):
                self._seen(watched, record, began)
            elif watched.since < began and watched.verdict.phase is not Phase.ENDED:
                # One that was submitted while squeue ran is not missing.
                missing.append(watched)
        limit = asyncio.Semaphore(_AT_ONCE)
        await asyncio.gather(*(self._look_for(watched, limit) for watched in missing))

    async def _look_for(self, watched: _Watched, limit: asyncio.Semaphore) -> None:
        """Ask for one job as its own account: PrivateData may hide it from all others."""
        async with limit:
            began = datetime.now(UTC)
            try:
                record = await self._client.ask_job(watched.key.account, watched.key.job_id)
            except CometError as exc:
                self._silent([watched], exc)
                return
        if record is not None and _is_of(record, watched.key):
            self._seen(watched, record, began)
        else:
            self._absent(watched, began)

    def _seen(self, watched: _Watched, record: JobRecord, as_of: datetime) -> None:
        watched.absent_since = None
        phase = record.phase
        reason = record.reason
        if phase is Phase.ENDED:
            reason = describe_end(record.state, record.exit_code)
        elif phase is Phase.UNKNOWN:
            reason = "Slurm says a state that is not known here"
        self._set(watched, Verdict(phase, record, as_of, reason))

    def _absent(self, watched: _Watched, as_of: datetime) -> None:
        first = watched.absent_since = watched.absent_since or as_of
        record = watched.verdict.record
        if as_of - first >= self._grace and as_of > first:
            reason = "Slurm has no trace of it any more"
            self._set(watched, Verdict(Phase.ENDED, record, as_of, reason, no_trace=True))
        else:
            reason = f"Slurm has had no trace of it since {first:%H:%M:%S} UTC"
            self._set(watched, Verdict(Phase.UNKNOWN, record, as_of, reason))

    def _silent(self, jobs: Iterable[_Watched], exc: CometError) -> None:
        for watched in jobs:
            last = watched.verdict
            if last.phase is Phase.ENDED and not last.no_trace:
                continue
            watched.absent_since = None  # only answers in a row count
            since = f" (last answer {last.as_of:%H:%M:%S} UTC)" if last.as_of else ""
            reason = f"{str(exc).rstrip('.')}{since}"
            self._set(watched, Verdict(Phase.UNKNOWN, last.record, last.as_of, reason))

    def _set(self, watched: _Watched, verdict: Verdict) -> None:
        before, watched.verdict = watched.verdict, verdict
        if _shown(before) == _shown(verdict):
            return
        log.debug(
            "cluster %s: job %s of %s: %s %s",
            self._cluster, watched.key.job_id, watched.key.account,
            verdict.phase.value, verdict.reason,
        )  # fmt: skip
        # Wake those who wait now; who comes later waits for the next change.
        watched.changed.set()
        watched.changed = asyncio.Event()


def _is_of(record: JobRecord, key: JobKey) -> bool:
    if record.user != key.account:
        return False
    if key.submit_time is None or record.submit_time is None:
        return True
    # A requeue moves the time forward, never back.
    return record.submit_time >= key.submit_time


def _shown(verdict: Verdict) -> tuple[object, ...]:
    record = verdict.record
    if record is None:
        return (verdict.phase, verdict.reason)
    return (verdict.phase, verdict.reason, record.state, record.nodes, record.start_time)
