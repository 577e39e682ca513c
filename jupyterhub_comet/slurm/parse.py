"""Read what squeue, sacct and sbatch print (pure: text in, records out).

Invariants:

* a record counts only in full; an answer without its header line is no answer. A command that
  printed nothing, garbage or a part must never read as "no such job".
* text that a job's owner chooses (name, comment) cannot make or change a record. Slurm prints
  a comment with its line ends (tried on 22.05 and 24.11), so each squeue record stands between
  marks that the client draws anew for every call, and the shared query asks for no such text.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from jupyterhub_comet.errors import OutputUnreadable
from jupyterhub_comet.slurm.state import JobState, Phase, classify

# US, "unit separator": squeue and sacct print it as it is, and no field of ours can hold it.
SEPARATOR = "\x1f"

# squeue --format letters: %A is the plain id also of an array's task.
_SQUEUE_FIELDS = ("%A", "%u", "%T", "%V", "%S", "%e", "%L", "%P", "%a", "%N", "%r")
_SQUEUE_COMMENT = "%k"
_SQUEUE_HEADER = "JOBID"

# No JobName, no Comment: their owner may put line ends into them.
SACCT_FIELDS = (
    "JobIDRaw",
    "User",
    "State",
    "ExitCode",
    "Submit",
    "Start",
    "End",
    "Partition",
    "Account",
    "NodeList",
)

_NOTHING = frozenset({"", "N/A", "NONE", "UNKNOWN", "(NULL)", "NONE ASSIGNED"})
_ENDLESS = frozenset({"UNLIMITED", "INFINITE", "NOT_SET", "INVALID", "PARTITION_LIMIT"}) | _NOTHING
_DAYS = re.compile(r"(\d{1,6})-(\d{1,4})(?::(\d{1,2}))?(?::(\d{1,2}))?")
_HOURS = re.compile(r"(\d{1,6}):(\d{1,2}):(\d{1,2})")
_MINUTES = re.compile(r"(\d{1,8})(?::(\d{1,2}))?")
_SUBMITTED = re.compile(
    r"(?:Submitted batch job )?([1-9]\d{0,19})(?:;[\w.-]+| on cluster [\w.-]+)?", re.ASCII
)
# Of two lines for one id the most alive one counts.
_LIVELINESS = (Phase.RUNNING, Phase.ENDING, Phase.WAITING, Phase.UNKNOWN, Phase.ENDED)


@dataclass(frozen=True)
class JobRecord:
    """One job as Slurm tells it. Times are in UTC; None or "" where Slurm says nothing."""

    job_id: str
    user: str
    state: JobState
    reason: str = ""
    """Slurm's reason code, for example ``Priority``."""
    nodes: str = ""
    partition: str = ""
    slurm_account: str = ""
    submit_time: datetime | None = None
    start_time: datetime | None = None
    """The expected start while the job waits."""
    end_time: datetime | None = None
    time_left_s: int | None = None
    comment: str = ""
    """Only where it was asked for; its owner can change it at will."""
    exit_code: str = ""
    """``status:signal``; only from sacct."""

    @property
    def phase(self) -> Phase:
        """What the state means for the server in this job."""
        if self.state is JobState.STAGE_OUT and not self.nodes:
            return Phase.WAITING
        return self.state.phase


def squeue_format(mark: str, *, comment: bool = False) -> str:
    """The value of squeue's --format whose output `parse_squeue` reads.

    Args:
        mark: random text of letters and digits, new for each call.
        comment: ask for the comment too.
    """
    fields = (*_SQUEUE_FIELDS, _SQUEUE_COMMENT) if comment else _SQUEUE_FIELDS
    return SEPARATOR.join((mark, *fields, mark))


def parse_squeue(text: str, mark: str, wanted: Collection[str] | None = None) -> list[JobRecord]:
    """The records of a squeue call with `squeue_format` and a header.

    Lines around the records (``CLUSTER: expanse``, messages of the day) are skipped.

    Args:
        text: what squeue printed.
        mark: the one in the format.
        wanted: only these job ids; of a site's 50,000 jobs a hub needs few, and reading them
            all would hold up the event loop for a second.

    Raises:
        OutputUnreadable: the header or a part of a record is missing.
    """
    header, *rows = _between(text, mark)
    if header[0] != _SQUEUE_HEADER:
        raise OutputUnreadable("squeue printed no header line")
    return [_squeue_record(row) for row in rows if wanted is None or row[0] in wanted]


def _between(text: str, mark: str) -> list[list[str]]:
    _, *pieces = text.split(mark + SEPARATOR)
    rows = []
    for piece in pieces:
        inside, found, _ = piece.partition(SEPARATOR + mark)
        # The comment comes last, so what it contains stays in it.
        row = inside.split(SEPARATOR, len(_SQUEUE_FIELDS))
        if not found or len(row) < len(_SQUEUE_FIELDS):
            raise OutputUnreadable("squeue printed a record in part")
        rows.append(row)
    if not rows:
        raise OutputUnreadable("squeue printed no record and no header line")
    return rows


def _squeue_record(row: list[str]) -> JobRecord:
    job_id, user, state, submit, start, end, left, partition, account, nodes, reason = (
        field.strip() for field in row[: len(_SQUEUE_FIELDS)]
    )
    return JobRecord(
        job_id=_job_id(job_id),
        user=user,
        state=classify(state),
        reason=_text(reason),
        nodes=_text(nodes),
        partition=_text(partition),
        slurm_account=_text(account),
        submit_time=parse_time(submit),
        start_time=parse_time(start),
        end_time=parse_time(end),
        time_left_s=_duration_or_none(left),
        comment=_text(row[len(_SQUEUE_FIELDS)]) if len(row) > len(_SQUEUE_FIELDS) else "",
    )


def parse_sacct(text: str) -> list[JobRecord]:
    """The records of ``sacct --parsable2 --delimiter=SEPARATOR --format=SACCT_FIELDS``.

    Lines before the header and the rows of job steps (``12.batch``) are skipped.

    Raises:
        OutputUnreadable: no header line, or a line after it that is no record.
    """
    lines = text.splitlines()
    header = SEPARATOR.join(SACCT_FIELDS)
    if header not in lines:
        raise OutputUnreadable("sacct printed no header line")
    rows = [line.split(SEPARATOR) for line in lines[lines.index(header) + 1 :] if line]
    if any(len(row) != len(SACCT_FIELDS) for row in rows):
        raise OutputUnreadable("sacct printed a line that is no record")
    return [_sacct_record(row) for row in rows if "." not in row[0]]


def _sacct_record(row: list[str]) -> JobRecord:
    job_id, user, state, exit_code, submit, start, end, partition, account, nodes = row
    return JobRecord(
        job_id=_job_id(job_id),
        user=user,
        state=classify(state),
        nodes=_text(nodes),
        partition=_text(partition),
        slurm_account=_text(account),
        submit_time=parse_time(submit),
        start_time=parse_time(start),
        end_time=parse_time(end),
        exit_code=exit_code,
    )


def one_per_job(records: Iterable[JobRecord]) -> dict[str, JobRecord]:
    """Records by job id; of several for one id the most alive one."""
    found: dict[str, JobRecord] = {}
    for record in records:
        known = found.get(record.job_id)
        if known is None or _rank(record) < _rank(known):
            found[record.job_id] = record
    return found


def _rank(record: JobRecord) -> int:
    return _LIVELINESS.index(record.phase)


def parse_submitted(text: str) -> str:
    """The job id in what ``sbatch --parsable`` printed, with or without a cluster's name.

    Warnings may stand before it and text of a site's plugin after it.

    Raises:
        OutputUnreadable: no id, or two different ones: the job must be looked for.
    """
    matches = (_SUBMITTED.fullmatch(line.strip()) for line in text.splitlines())
    ids = {match[1] for match in matches if match}
    if len(ids) != 1:
        what = "no job id" if not ids else "more than one job id"
        raise OutputUnreadable(f"sbatch printed {what}")
    return ids.pop()


def parse_duration(text: str) -> int | None:
    """Seconds of a duration in any of Slurm's forms; None for unlimited or unset.

    The forms are those of sbatch(1) --time: ``MM``, ``MM:SS``, ``HH:MM:SS``, ``D-HH``,
    ``D-HH:MM``, ``D-HH:MM:SS``.

    Raises:
        ValueError: any other text.
    """
    plain = text.strip()
    if plain.upper() in _ENDLESS:
        return None
    if match := _DAYS.fullmatch(plain):
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    elif match := _HOURS.fullmatch(plain):
        days = 0
        hours, minutes, seconds = (int(part) for part in match.groups())
    elif match := _MINUTES.fullmatch(plain):
        days = hours = 0
        minutes, seconds = (int(part or 0) for part in match.groups())
    else:
        raise ValueError(f"{text!r} is no duration that Slurm prints")
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def parse_time(text: str) -> datetime | None:
    """A point in time, in seconds since 1970 or as ``2026-11-25T01:31:48`` in UTC.

    The transports ask for the first (SLURM_TIME_FORMAT=%s) and set TZ=UTC for a command that
    does not know it. None for ``N/A``, ``Unknown``, 0 and what cannot be read.
    """
    plain = text.strip()
    if plain.upper() in _NOTHING:  # half of all fields; strptime would be slow to refuse them
        return None
    try:
        if plain.isascii() and plain.isdigit():
            return datetime.fromtimestamp(int(plain), tz=UTC) if int(plain) else None
        return datetime.strptime(plain, "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _duration_or_none(text: str) -> int | None:
    try:
        return parse_duration(text)
    except ValueError:
        return None


def _job_id(text: str) -> str:
    if not (text.isascii() and text.isdigit()):
        raise OutputUnreadable(f"{text[:40]!r} is no job id")
    return text


def _text(field: str) -> str:
    plain = field.strip()
    return "" if plain.upper() in _NOTHING else plain
