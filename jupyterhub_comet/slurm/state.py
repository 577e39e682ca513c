"""Slurm's job states and what each means for a server (pure).

The words are those of squeue(1), sacct(1) and slurm.h's job_states and flags, from 20.11 to
25.05. A word that is not listed is UNKNOWN, which never ends a server.
"""

from __future__ import annotations

from enum import Enum


class Phase(Enum):
    """What a job state means for the server in it."""

    WAITING = "waiting"
    RUNNING = "running"
    ENDING = "ending"
    """Alive, but on its way out: what is connected stays, no new tunnel is admitted."""
    ENDED = "ended"
    UNKNOWN = "unknown"
    """Nothing is known, so nothing changes."""


class JobState(Enum):
    """A job state by its long word; ``UNKNOWN`` is ours."""

    PENDING = "PENDING"
    CONFIGURING = "CONFIGURING"
    REQUEUED = "REQUEUED"
    REQUEUE_FED = "REQUEUE_FED"
    REQUEUE_HOLD = "REQUEUE_HOLD"
    SPECIAL_EXIT = "SPECIAL_EXIT"
    RESV_DEL_HOLD = "RESV_DEL_HOLD"
    POWER_UP_NODE = "POWER_UP_NODE"
    STAGE_OUT = "STAGE_OUT"
    RUNNING = "RUNNING"
    SUSPENDED = "SUSPENDED"
    STOPPED = "STOPPED"
    SIGNALING = "SIGNALING"
    RESIZING = "RESIZING"
    UPDATE_DB = "UPDATE_DB"
    COMPLETING = "COMPLETING"
    BOOT_FAIL = "BOOT_FAIL"
    CANCELLED = "CANCELLED"
    COMPLETED = "COMPLETED"
    DEADLINE = "DEADLINE"
    FAILED = "FAILED"
    LAUNCH_FAILED = "LAUNCH_FAILED"
    RECONFIG_FAIL = "RECONFIG_FAIL"
    NODE_FAIL = "NODE_FAIL"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    PREEMPTED = "PREEMPTED"
    REVOKED = "REVOKED"
    TIMEOUT = "TIMEOUT"
    UNKNOWN = "UNKNOWN"

    @property
    def phase(self) -> Phase:
        """What the state means for a server."""
        return _PHASES[self]


_WAITING = (
    JobState.PENDING,
    JobState.CONFIGURING,
    JobState.REQUEUED,
    JobState.REQUEUE_FED,
    JobState.REQUEUE_HOLD,
    JobState.SPECIAL_EXIT,
    JobState.RESV_DEL_HOLD,
    JobState.POWER_UP_NODE,
)
_RUNNING = (
    JobState.RUNNING,
    JobState.SUSPENDED,
    JobState.STOPPED,
    JobState.SIGNALING,
    JobState.RESIZING,
    JobState.UPDATE_DB,
)
# Files of a burst buffer are staged out after the script's end; a job shown so without nodes
# has not started (`slurm.parse.JobRecord.phase`).
_ENDING = (JobState.COMPLETING, JobState.STAGE_OUT)
_ENDED = (
    JobState.BOOT_FAIL,
    JobState.CANCELLED,
    JobState.COMPLETED,
    JobState.DEADLINE,
    JobState.FAILED,
    JobState.LAUNCH_FAILED,
    JobState.RECONFIG_FAIL,
    JobState.NODE_FAIL,
    JobState.OUT_OF_MEMORY,
    JobState.PREEMPTED,
    JobState.REVOKED,
    JobState.TIMEOUT,
)
_PHASES = {
    JobState.UNKNOWN: Phase.UNKNOWN,
    **dict.fromkeys(_WAITING, Phase.WAITING),
    **dict.fromkeys(_RUNNING, Phase.RUNNING),
    **dict.fromkeys(_ENDING, Phase.ENDING),
    **dict.fromkeys(_ENDED, Phase.ENDED),
}

_SHORT = {
    "BF": JobState.BOOT_FAIL,
    "CA": JobState.CANCELLED,
    "CD": JobState.COMPLETED,
    "CF": JobState.CONFIGURING,
    "CG": JobState.COMPLETING,
    "DL": JobState.DEADLINE,
    "F": JobState.FAILED,
    "LF": JobState.LAUNCH_FAILED,
    "NF": JobState.NODE_FAIL,
    "OOM": JobState.OUT_OF_MEMORY,
    "PD": JobState.PENDING,
    "PN": JobState.POWER_UP_NODE,
    "PR": JobState.PREEMPTED,
    "R": JobState.RUNNING,
    "RD": JobState.RESV_DEL_HOLD,
    "RE": JobState.RECONFIG_FAIL,
    "RF": JobState.REQUEUE_FED,
    "RH": JobState.REQUEUE_HOLD,
    "RQ": JobState.REQUEUED,
    "RS": JobState.RESIZING,
    "RV": JobState.REVOKED,
    "S": JobState.SUSPENDED,
    "SE": JobState.SPECIAL_EXIT,
    "SI": JobState.SIGNALING,
    "SO": JobState.STAGE_OUT,
    "ST": JobState.STOPPED,
    "TO": JobState.TIMEOUT,
    "UD": JobState.UPDATE_DB,
}
_LONG = {state.value: state for state in JobState}

_ENDINGS = {
    JobState.BOOT_FAIL: "its node did not start up",
    JobState.CANCELLED: "it was cancelled",
    JobState.COMPLETED: "it ended by itself",
    JobState.DEADLINE: "its deadline passed",
    JobState.FAILED: "it failed",
    JobState.LAUNCH_FAILED: "its node could not launch it",
    JobState.NODE_FAIL: "its node failed",
    JobState.OUT_OF_MEMORY: "it used more memory than it had asked for",
    JobState.PREEMPTED: "it was preempted by a job of higher priority",
    JobState.REVOKED: "another cluster of the federation took it",
    JobState.TIMEOUT: "its walltime is over",
}


def classify(word: str) -> JobState:
    """The state for a word or short code of squeue, sacct or scontrol, in any case.

    What follows the word is dropped: sacct's ``CANCELLED by 1001``, the ``+`` of a cut column,
    marks such as ``*``. Anything else is UNKNOWN.
    """
    parts = word.split(maxsplit=1)
    if not parts:
        return JobState.UNKNOWN
    plain = parts[0].rstrip("+*~#%$@!,.").upper()
    return _LONG.get(plain) or _SHORT.get(plain) or JobState.UNKNOWN


def describe_end(state: JobState, exit_code: str = "") -> str:
    """A clause for the user, for example ``it failed (FAILED, exit code 1:0)``.

    Args:
        state: a state of phase ENDED.
        exit_code: sacct's ``status:signal``; empty or ``0:0`` is left out.
    """
    detail = state.value
    if exit_code not in {"", "0:0"}:
        detail += f", exit code {exit_code}"
    return f"{_ENDINGS.get(state, 'it ended')} ({detail})"
