"""Slurm's commands, run as one account over a transport.

Every command is an argv list with an absolute path. Three answers are kept apart: Slurm said
no (Refused), Slurm did not answer (Unreachable), the answer makes no sense (Broken). None of
them says that a job is gone.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

from jupyterhub_comet.errors import (
    ClusterUnreachable,
    OutputUnreadable,
    ReplyLost,
    SubmitRefused,
    Unreachable,
)
from jupyterhub_comet.slurm.parse import (
    SACCT_FIELDS,
    SEPARATOR,
    JobRecord,
    one_per_job,
    parse_sacct,
    parse_squeue,
    parse_submitted,
    squeue_format,
)
from jupyterhub_comet.slurm.state import Phase
from jupyterhub_comet.transport import Result, Transport

log = logging.getLogger(__name__)

# Slurm's own words for "nobody answered", strerror texts of 20.11 to 25.05. After the first
# group nothing was taken; after the second the controller may have taken the request.
_NOT_SENT = re.compile(
    r"Unable to contact slurm controller|Connection refused|No route to host"
    r"|Unable to establish control machine|DNS SRV lookup failed"
    r"|Could not establish a configuration source|Munge encode failed"
    r"|in standby mode|temporarily unable to accept",
    re.IGNORECASE,
)
_MAYBE_SENT = re.compile(
    r"Socket timed out|Zero Bytes were transmitted|Unexpected message received"
    r"|Protocol authentication error|Transport endpoint|Connection reset|Insane message length"
    r"|Communication connection failure|Slurm backup controller",
    re.IGNORECASE,
)
_NO_SUCH_JOB = re.compile(r"Invalid job id|already completed|already completing", re.IGNORECASE)
_NO_ACCOUNTING = re.compile(r"accounting storage is disabled", re.IGNORECASE)
_SAID = re.compile(r"(?:sbatch|scancel|squeue|sacct|slurm_load_jobs)(?::| error:) *")
_LEVEL = re.compile(r"(?:error|fatal): *")
_FAILED = re.compile(r"Batch job submission failed: *")

# The clocks of hub and cluster may be that far apart.
_CLOCKS_APART = timedelta(minutes=10)
# Between two looks for a job whose id was lost.
_LOOK_AGAIN_S = 2.0


class SlurmClient:
    """Submit, list and cancel jobs of one cluster.

    Args:
        transport: runs the commands.
        slurm_path: folder of the commands on the login node.
        timeout_s: seconds for each command.
        max_submits: sbatch calls in flight at a time; slurmctld is shared with everybody.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        slurm_path: str = "/usr/bin",
        timeout_s: float = 20.0,
        max_submits: int = 8,
    ) -> None:
        self._transport = transport
        self._path = slurm_path.rstrip("/")
        self._timeout_s = timeout_s
        self._submitting = asyncio.Semaphore(max_submits)

    async def submit(
        self,
        account: str,
        request_argv: Sequence[str],
        script: str,
        *,
        spawn: str,
        since: datetime,
    ) -> str:
        """Submit a job and return its id.

        Args:
            account: the cluster account that submits.
            request_argv: from `slurm.options.request_argv`.
            script: the job script; on sbatch's standard input, never in a file or argv.
            spawn: the spawn id in the job's comment.
            since: when the spawn id was made, with a time zone.

        Raises:
            SubmitRefused: Slurm said no, with its own sentence.
            ClusterUnreachable: surely nothing was submitted.
            ReplyLost: the answer was lost and no job with this spawn id is to be seen (yet).
            OutputUnreadable: sbatch itself could not be run.
        """
        async with self._submitting:
            try:
                result = await self._run(account, "sbatch", request_argv, stdin=script)
                return _submitted(result, request_argv)
            except ReplyLost as exc:
                log.warning("sbatch as %s for %s: %s; looking for the job", account, spawn, exc)
                return await self._find_submitted(account, spawn, since, exc)

    async def cancel(self, account: str, job_id: str) -> None:
        """Cancel a job; one that has ended already counts as cancelled.

        Raises:
            ClusterUnreachable: Slurm did not confirm it; ask again.
            OutputUnreadable: Slurm refused, for example another account's job.
        """
        result = await self._run(account, "scancel", [job_id])
        if result.exit_status == 0 or _NO_SUCH_JOB.search(result.stderr):
            return
        _raise_unless_answered(result, "scancel")
        raise OutputUnreadable(f"scancel {job_id} as {account}: {_sentence(result)}")

    async def list_jobs(
        self, account: str, *, only_own: bool = False, wanted: Collection[str] | None = None
    ) -> list[JobRecord]:
        """Waiting and running jobs that ``account`` may see, one record a job.

        Args:
            account: who asks.
            only_own: ask slurmctld for that account's jobs alone.
            wanted: read only these job ids from the answer.

        Raises:
            ClusterUnreachable, OutputUnreadable: there is no trustworthy list.
        """
        own = [f"--user={account}"] if only_own else []
        return await self._squeue(account, own, wanted=wanted)

    async def ask_job(self, account: str, job_id: str) -> JobRecord | None:
        """What Slurm knows of one job, also after its end; None: no trace of it.

        slurmctld's word comes first; it forgets a job MinJobAge (300 s by default) after its
        end. sacct's word counts only for an end: it lags behind a running job by seconds and
        may call a job running that slurmctld lost long ago. scontrol show job would read the
        same table as squeue --states=all, but its text can be forged by a job's owner.

        Raises:
            ClusterUnreachable, OutputUnreadable: no trustworthy answer.
        """
        try:
            # Twice the same id: with one, squeue asks slurmctld by id and fails where that is
            # unknown; with two it filters the whole list, on all versions alike.
            found = await self._squeue(account, ["--states=all", f"--jobs={job_id},{job_id}"])
        except OutputUnreadable as exc:
            if _NO_SUCH_JOB.search(str(exc)) is None:
                raise
            found = []
        record = one_per_job(found).get(job_id)
        return record or await self._ask_accounting(account, job_id)

    async def find_by_spawn(self, account: str, spawn: str, since: datetime) -> list[JobRecord]:
        """The account's jobs with ``spawn`` as their comment, submitted after ``since``.

        A comment can be changed by the job's owner: more than one means that somebody did,
        and none of them must be taken for the server's job. Jobs of other accounts are not
        even looked at (T43).

        Raises:
            ClusterUnreachable, OutputUnreadable: no trustworthy answer.
        """
        records = await self._squeue(account, ["--states=all", f"--user={account}"], comment=True)
        return [
            record
            for record in records
            if record.comment == spawn
            and record.user == account
            and (record.submit_time is None or record.submit_time >= since - _CLOCKS_APART)
        ]

    async def _squeue(
        self,
        account: str,
        arguments: Sequence[str],
        *,
        comment: bool = False,
        wanted: Collection[str] | None = None,
    ) -> list[JobRecord]:
        mark = secrets.token_hex(8)
        # --all: jobs in hidden partitions too.
        argv = ["--all", f"--format={squeue_format(mark, comment=comment)}", *arguments]
        result = await self._run(account, "squeue", argv)
        _raise_unless_answered(result, "squeue")
        if result.exit_status != 0:
            raise OutputUnreadable(f"squeue as {account}: {_sentence(result)}")
        return list(one_per_job(parse_squeue(result.stdout, mark, wanted)).values())

    async def _ask_accounting(self, account: str, job_id: str) -> JobRecord | None:
        argv = [
            "--allocations",
            "--parsable2",
            f"--delimiter={SEPARATOR}",
            f"--format={','.join(SACCT_FIELDS)}",
            f"--jobs={job_id}",
        ]
        result = await self._run(account, "sacct", argv)
        if result.exit_status != 0 and _NO_ACCOUNTING.search(result.stderr):
            return None
        _raise_unless_answered(result, "sacct")
        if result.exit_status != 0:
            raise ClusterUnreachable(f"sacct does not answer: {_sentence(result)}")
        record = one_per_job(parse_sacct(result.stdout)).get(job_id)
        return record if record is not None and record.phase is Phase.ENDED else None

    async def _find_submitted(
        self, account: str, spawn: str, since: datetime, lost: ReplyLost
    ) -> str:
        """The id of a job whose sbatch did not answer; asked for as long as that might take."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._timeout_s
        while True:
            try:
                found = await self.find_by_spawn(account, spawn, since)
            except (Unreachable, OutputUnreadable):
                found = []
            if len(found) == 1:
                return found[0].job_id
            if found:
                ids = ", ".join(record.job_id for record in found)
                raise ReplyLost(f"{lost} Several jobs ({ids}) carry its id; none is taken.")
            if loop.time() > until:
                raise ReplyLost(f"{lost} No job of it is to be seen.") from lost
            await asyncio.sleep(_LOOK_AGAIN_S)

    async def _run(
        self, account: str, program: str, arguments: Sequence[str], *, stdin: str = ""
    ) -> Result:
        argv = [f"{self._path}/{program}", *arguments]
        result = await self._transport.run(account, argv, stdin=stdin, timeout_s=self._timeout_s)
        if result.exit_status in {126, 127}:  # the shell's own: not found, not executable
            raise OutputUnreadable(
                f"{argv[0]} cannot be run on the login node: {_sentence(result)}; see slurmPath"
            )
        return result


def _submitted(result: Result, request_argv: Sequence[str]) -> str:
    if result.exit_status == 0:
        try:
            return parse_submitted(result.stdout)
        except OutputUnreadable as exc:
            raise ReplyLost(f"{exc}.") from exc
    _raise_unless_answered(result, "sbatch")
    raise SubmitRefused(f"Slurm refused the job: {_sentence(result)}{_asked(request_argv)}.")


def _raise_unless_answered(result: Result, program: str) -> None:
    """ClusterUnreachable or ReplyLost where a command says that Slurm did not answer it."""
    if result.exit_status == 0:
        return
    if _MAYBE_SENT.search(result.stderr):
        raise ReplyLost(f"Slurm did not answer {program}: {_sentence(result)}.")
    if _NOT_SENT.search(result.stderr):
        raise ClusterUnreachable(f"Slurm does not answer {program}: {_sentence(result)}.")


def _sentence(result: Result) -> str:
    """The last thing a command said against it, without its name and its full stop."""
    lines = [line.strip() for line in result.stderr.splitlines()]
    # Noise of dot files and Kerberos stands without a command's name.
    named = [line for line in lines if _SAID.match(line)] or [line for line in lines if line]
    said = [_plain(line) for line in named[-3:]]
    if not said:
        return f"exit status {result.exit_status} without a word"
    # Slurm's plain code comes last; what explains it (a site's job_submit plugin) before it.
    text = "; ".join(dict.fromkeys(said))
    return "".join(char if char.isprintable() else " " for char in text[:500]).rstrip(". ")


def _plain(line: str) -> str:
    for prefix in (_SAID, _LEVEL, _FAILED):
        line = prefix.sub("", line, count=1) if prefix.match(line) else line
    return line


def _asked(request_argv: Sequence[str]) -> str:
    shown = ("--account", "--partition", "--qos", "--reservation", "--time", "--gres")
    words = [
        f"{name.removeprefix('--')} {value}"
        for name, _, value in (argument.partition("=") for argument in request_argv)
        if name in shown and value
    ]
    return f" (asked for: {', '.join(words)})" if words else ""
