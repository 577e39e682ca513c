"""What the monitor makes of Slurm's answers over time.

`Cluster` stands at the process edge: it prints what squeue and sacct print for a table of jobs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import pytest

from jupyterhub_comet.errors import ClusterUnreachable
from jupyterhub_comet.slurm.client import SlurmClient
from jupyterhub_comet.slurm.monitor import JobKey, Monitor, Verdict
from jupyterhub_comet.slurm.parse import SACCT_FIELDS, SEPARATOR
from jupyterhub_comet.slurm.state import JobState, Phase
from jupyterhub_comet.transport import Result

pytestmark = pytest.mark.unit

SUBMITTED = 1795571184
KEY = JobKey("comet", "12", "alice")


@dataclass(frozen=True)
class Job:
    """A row of Slurm's table."""

    user: str = "alice"
    state: str = "PENDING"
    reason: str = "Priority"
    nodes: str = ""
    submit: int = SUBMITTED
    in_queue: bool = True
    in_slurmctld: bool = True


@dataclass
class Cluster:
    """Answers as Slurm does; ``silent`` is what it says instead."""

    jobs: dict[str, Job] = field(default_factory=dict)
    silent: str = ""
    private: bool = False
    calls: list[tuple[str, list[str]]] = field(default_factory=list)
    hold: asyncio.Event | None = None

    async def run(
        self,
        account: str,
        argv: Sequence[str],
        *,
        stdin: str = "",  # noqa: ARG002
        timeout_s: float = 20.0,  # noqa: ARG002
    ) -> Result:
        self.calls.append((account, list(argv)))
        if self.hold is not None:
            await self.hold.wait()
        if self.silent:
            return Result(1, "", self.silent)
        program = argv[0].rsplit("/", 1)[-1]
        text = self._squeue(account, argv) if program == "squeue" else self._sacct(argv)
        return Result(0, text, "")

    async def close(self) -> None:
        """Nothing is open."""

    def counted(self, word: str) -> int:
        return sum(any(word in part for part in argv) for _, argv in self.calls)

    def _squeue(self, account: str, argv: Sequence[str]) -> str:
        options = dict(word.partition("=")[::2] for word in argv)
        mark = options["--format"].split(SEPARATOR)[0]
        rows = [SEPARATOR.join((mark, "JOBID", *"X" * 10, mark))]
        for job_id, job in self.jobs.items():
            known = job.in_slurmctld if "--states" in options else job.in_queue
            asked = job_id in options.get("--jobs", job_id).split(",")
            visible = not self.private or account == job.user
            if known and asked and visible and options.get("--user", job.user) == job.user:
                cells = (job_id, job.user, job.state, str(job.submit), "N/A", "N/A", "5:00",
                         "shared", "demo", job.nodes, job.reason)  # fmt: skip
                rows.append(SEPARATOR.join((mark, *cells, mark)))
        return "\n".join(rows) + "\n"

    def _sacct(self, argv: Sequence[str]) -> str:
        asked = dict(word.partition("=")[::2] for word in argv)["--jobs"]
        rows = [SEPARATOR.join(SACCT_FIELDS)]
        if job := self.jobs.get(asked):
            cells = (asked, job.user, job.state, "1:0", str(job.submit), "", "", "", "", "")
            rows.append(SEPARATOR.join(cells))
        return "\n".join(rows) + "\n"


def make(cluster: Cluster, *, query_account: str = "jhquery", grace_s: float = 0) -> Monitor:
    return Monitor(
        SlurmClient(cluster, timeout_s=1),
        cluster="comet",
        query_account=query_account,
        interval_s=0.05,
        grace_s=grace_s,
    )


async def after(monitor: Monitor, key: JobKey = KEY, rounds: int = 1) -> Verdict:
    """The verdict after so many new answers."""
    monitor.verdict(key)
    for _ in range(rounds):
        await asyncio.sleep(0)  # an answer counts as newer than the start of the watch
        await monitor.refresh(0)
    return monitor.verdict(key)


async def test_before_the_first_answer_nothing_is_known() -> None:
    verdict = make(Cluster()).verdict(KEY)
    assert (verdict.phase, verdict.as_of, verdict.record) == (Phase.UNKNOWN, None, None)


async def test_waiting_job_has_slurms_reason() -> None:
    verdict = await after(make(Cluster({"12": Job()})))
    assert (verdict.phase, verdict.reason) == (Phase.WAITING, "Priority")
    assert verdict.record is not None
    assert verdict.record.submit_time == datetime.fromtimestamp(SUBMITTED, tz=UTC)


async def test_job_that_left_the_queue_is_asked_for_and_ends_once() -> None:
    cluster = Cluster({"12": Job(state="TIMEOUT", in_queue=False)})
    monitor = make(cluster)
    verdict = await after(monitor)
    assert (verdict.phase, verdict.no_trace) == (Phase.ENDED, False)
    assert verdict.reason == "its walltime is over (TIMEOUT)"
    asked = cluster.counted("--jobs=")
    await after(monitor, rounds=3)
    assert cluster.counted("--jobs=") == asked


async def test_job_that_only_accounting_knows_has_its_exit_code() -> None:
    cluster = Cluster({"12": Job(state="FAILED", in_queue=False, in_slurmctld=False)})
    verdict = await after(make(cluster))
    assert verdict.reason == "it failed (FAILED, exit code 1:0)"


async def test_accountings_running_is_no_trace() -> None:
    cluster = Cluster({"12": Job(state="RUNNING", in_queue=False, in_slurmctld=False)})
    assert (await after(make(cluster))).phase is Phase.UNKNOWN


async def test_absent_once_is_unknown_and_twice_is_no_trace() -> None:
    monitor = make(Cluster())
    first = await after(monitor)
    assert first.phase is Phase.UNKNOWN
    assert "no trace" in first.reason
    second = await after(monitor)
    assert (second.phase, second.no_trace) == (Phase.ENDED, True)


async def test_absent_for_less_than_the_grace_time_stays_unknown() -> None:
    assert (await after(make(Cluster(), grace_s=3600), rounds=5)).phase is Phase.UNKNOWN


async def test_silence_between_two_absences_starts_again() -> None:
    cluster = Cluster()
    monitor = make(cluster)
    await after(monitor)
    cluster.silent = "slurm_load_jobs error: Socket timed out on send/recv operation"
    await after(monitor)
    cluster.silent = ""
    await asyncio.sleep(0.15)  # longer than the pause after a failure
    assert (await after(monitor)).phase is Phase.UNKNOWN
    assert (await after(monitor)).no_trace


async def test_job_that_comes_back_after_no_trace_is_alive() -> None:
    cluster = Cluster()
    monitor = make(cluster)
    assert (await after(monitor, rounds=2)).no_trace
    cluster.jobs["12"] = Job(state="RUNNING", nodes="n1")
    assert (await after(monitor)).phase is Phase.RUNNING


@pytest.mark.parametrize(
    "said",
    [
        "slurm_load_jobs error: Unable to contact slurm controller (connect failure)",
        "squeue: error: Parse error in file /etc/slurm/slurm.conf line 118",
        "nobody knows this text",
        "",
    ],
)
async def test_F17_silence_is_unknown_and_keeps_the_last_record(said: str) -> None:
    cluster = Cluster({"12": Job(state="RUNNING", nodes="n1")})
    monitor = make(cluster)
    before = await after(monitor)
    cluster.silent = said or " "
    verdict = await after(monitor)
    assert verdict.phase is Phase.UNKNOWN
    assert verdict.record == before.record
    assert verdict.as_of == before.as_of
    assert "last answer" in verdict.reason


async def test_unknown_word_is_unknown() -> None:
    assert (await after(make(Cluster({"12": Job(state="HYPER")})))).phase is Phase.UNKNOWN


async def test_T43_another_accounts_job_with_the_id_is_not_the_job() -> None:
    verdict = await after(make(Cluster({"12": Job(user="bob", state="COMPLETED")})))
    assert verdict.phase is Phase.UNKNOWN
    assert verdict.record is None


async def test_older_job_with_a_reused_id_is_not_the_job() -> None:
    key = replace(KEY, submit_time=datetime.fromtimestamp(SUBMITTED + 5, tz=UTC))
    assert (await after(make(Cluster({"12": Job(state="RUNNING")})), key)).phase is Phase.UNKNOWN
    requeued = Cluster({"12": Job(state="RUNNING", submit=SUBMITTED + 9)})
    assert (await after(make(requeued), key)).phase is Phase.RUNNING


async def test_private_jobs_are_asked_for_as_their_owner() -> None:
    cluster = Cluster({"12": Job(state="RUNNING", nodes="n1")}, private=True)
    assert (await after(make(cluster))).phase is Phase.RUNNING
    assert {account for account, _ in cluster.calls} == {"jhquery", "alice"}


async def test_without_a_query_account_each_account_asks_for_its_own() -> None:
    cluster = Cluster({"12": Job(), "13": Job(user="bob", state="RUNNING")}, private=True)
    monitor = make(cluster, query_account="")
    monitor.verdict(JobKey("comet", "13", "bob"))
    assert (await after(monitor)).phase is Phase.WAITING
    assert monitor.verdict(JobKey("comet", "13", "bob")).phase is Phase.RUNNING
    assert [account for account, _ in cluster.calls] == ["bob", "alice"]


async def test_account_that_may_not_log_in_hides_no_other() -> None:
    class OneLockedOut(Cluster):
        async def run(
            self, account: str, argv: Sequence[str], *, stdin: str = "", timeout_s: float = 20.0
        ) -> Result:
            if account == "bob":
                raise ClusterUnreachable("no login node lets bob in")
            return await super().run(account, argv, stdin=stdin, timeout_s=timeout_s)

    monitor = make(OneLockedOut({"12": Job()}), query_account="")
    monitor.verdict(JobKey("comet", "13", "bob"))
    assert (await after(monitor)).phase is Phase.WAITING
    assert "lets bob in" in monitor.verdict(JobKey("comet", "13", "bob")).reason


async def test_all_callers_share_one_question() -> None:
    cluster = Cluster({str(n): Job() for n in range(100)})
    monitor = make(cluster)
    keys = [JobKey("comet", str(n), "alice") for n in range(100)]
    for key in keys:
        monitor.verdict(key)
    await asyncio.gather(*(monitor.refresh(1) for _ in range(100)))
    await asyncio.gather(*(monitor.refresh(1) for _ in range(100)))
    assert len(cluster.calls) == 1
    assert all(monitor.verdict(key).phase is Phase.WAITING for key in keys)


async def test_fresh_answer_began_after_the_question() -> None:
    cluster = Cluster({"12": Job()}, hold=asyncio.Event())
    monitor = make(cluster)
    monitor.verdict(KEY)
    old = asyncio.create_task(monitor.refresh(0))
    await asyncio.sleep(0.01)
    fresh = asyncio.create_task(monitor.refresh(0))
    await asyncio.sleep(0.01)
    assert cluster.hold is not None
    cluster.hold.set()
    await asyncio.gather(old, fresh)
    assert len(cluster.calls) == 2


async def test_F23_silent_cluster_is_not_flooded() -> None:
    cluster = Cluster(silent="Unable to contact slurm controller")
    monitor = make(cluster)
    monitor.verdict(KEY)
    for _ in range(50):
        await monitor.refresh(0)
    assert len(cluster.calls) <= 2


async def test_refresh_goes_on_for_others_when_one_caller_is_cancelled() -> None:
    cluster = Cluster({"12": Job()}, hold=asyncio.Event())
    monitor = make(cluster)
    monitor.verdict(KEY)
    first = asyncio.create_task(monitor.refresh(1))
    second = asyncio.create_task(monitor.refresh(1))
    await asyncio.sleep(0.01)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert cluster.hold is not None
    cluster.hold.set()
    await second
    assert monitor.verdict(KEY).phase is Phase.WAITING


async def test_close_ends_waits_without_cancelling_who_waits() -> None:
    cluster = Cluster({"12": Job()}, hold=asyncio.Event())
    monitor = make(cluster)
    monitor.start()
    monitor.verdict(KEY)
    waiting = asyncio.create_task(monitor.refresh(1))
    await asyncio.sleep(0.01)
    await monitor.close()
    await waiting


async def test_change_wakes_who_waits() -> None:
    cluster = Cluster({"12": Job()})
    monitor = make(cluster)
    monitor.start()
    assert (await monitor.wait_for_change(KEY, 5)).phase is Phase.WAITING
    waiting = asyncio.create_task(monitor.wait_for_change(KEY, 5))
    await asyncio.sleep(0.01)
    cluster.jobs["12"] = Job(state="RUNNING", nodes="n1")
    verdict = await waiting
    assert verdict.phase is Phase.RUNNING
    await monitor.close()


async def test_wait_without_a_change_ends_in_time() -> None:
    monitor = make(Cluster({"12": Job()}))
    await after(monitor)
    assert (await monitor.wait_for_change(KEY, 0.01)).phase is Phase.WAITING


async def test_background_asks_only_while_a_job_is_watched() -> None:
    cluster = Cluster({"12": Job()})
    monitor = make(cluster)
    monitor.start()
    await asyncio.sleep(0.15)
    assert cluster.calls == []
    await monitor.wait_for_change(KEY, 5)
    monitor.forget(KEY)
    await asyncio.sleep(0.1)
    asked = len(cluster.calls)
    await asyncio.sleep(0.15)
    assert len(cluster.calls) == asked
    await monitor.close()


async def test_state_enum_is_kept_in_the_record() -> None:
    verdict = await after(make(Cluster({"12": Job(state="CF")})))
    assert verdict.record is not None
    assert verdict.record.state is JobState.CONFIGURING
