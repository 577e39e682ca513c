"""What a waiting researcher is told: Slurm's reasons in words (pure).

The keys are the reason codes of squeue's %r (squeue(1), "JOB REASON CODES"); a code that is
not listed is shown as it is, since sites and releases add their own.
"""

from __future__ import annotations

from .slurm.state import Phase

_REASONS = {
    "None": "Slurm has taken the job and will look at it in a moment",
    "Priority": "other jobs are ahead of it in the queue",
    "Resources": "it is next in line and waits for a node to become free",
    "Licenses": "it waits for a licence to become free",
    "Dependency": "it waits for another job",
    "BeginTime": "its start time has not come yet",
    "Reservation": "it waits for its reservation to begin",
    "ReqNodeNotAvail": "a node that it needs is down or reserved, perhaps for maintenance",
    "PartitionDown": "the partition is down; the site's staff know more",
    "PartitionInactive": "the partition takes no jobs at the moment",
    "PartitionTimeLimit": "it asks for more time than the partition ever gives: "
    "cancel it and choose less",
    "PartitionNodeLimit": "it asks for more nodes than the partition ever gives: "
    "cancel it and choose less",
    "JobHeldUser": "it is held; release it with `scontrol release`",
    "JobHeldAdmin": "the site's staff hold it; ask them why",
    "AssocGrpCPUMinutesLimit": "the allocation has no core hours left: choose another account",
    "AssocGrpBillingMinutes": "the allocation has no service units left: choose another account",
    "AssocMaxJobsLimit": "you already run as many jobs as the account allows: stop one",
    "QOSMaxJobsPerUserLimit": "you already run as many jobs as this QOS allows: stop one",
    "QOSMaxCpuPerUserLimit": "your jobs already use all cores that this QOS allows: stop one",
    "QOSMaxGRESPerUser": "your jobs already use all GPUs that this QOS allows: stop one",
    "InvalidAccount": "the account is not valid: cancel it and choose another one",
    "InvalidQOS": "the QOS is not valid for this account: cancel it and choose another one",
}


def describe_reason(reason: str) -> str:
    """A clause for a reason of squeue, as it stands after "The job waits: "."""
    code = reason.strip().strip("()").split(",")[0].strip()
    if code in {"", "(null)"}:
        code = "None"
    return _REASONS.get(code, f"Slurm says {code!r}")


def describe_elapsed(seconds: float) -> str:
    """A span of time as people say it, for example ``1 min 5 s`` or ``2 h 3 min``."""
    total = max(0, int(seconds))
    minutes, rest = divmod(total, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    if minutes:
        return f"{minutes} min {rest} s"
    return f"{rest} s"


def describe_wait(
    *,
    phase: Phase,
    reason: str,
    job_id: str,
    nodes: str,
    waited_s: float,
    unknown_because: str,
    tunnel_up: bool,
) -> tuple[int, str]:
    """Percentage and sentence for the pending page.

    Args:
        phase: what Slurm was last seen to say of the job.
        reason: squeue's reason code while it waits.
        job_id: empty before sbatch has answered.
        nodes: the node list of a running job.
        waited_s: seconds since the request.
        unknown_because: why nothing is known, with `Phase.UNKNOWN`.
        tunnel_up: whether the gateway holds the job's tunnel.
    """
    waited = describe_elapsed(waited_s)
    if not job_id:
        return 5, f"Handing the job to Slurm ({waited})."
    job = f"Job {job_id}"
    if tunnel_up:
        return 90, f"{job} runs on {nodes or 'its node'} and is connected; the notebook starts up."
    if phase is Phase.WAITING:
        return 20, f"{job} waits: {describe_reason(reason)} (for {waited})."
    if phase in {Phase.RUNNING, Phase.ENDING}:
        return 60, f"{job} runs on {nodes or 'its node'}; waiting for it to connect ({waited})."
    if unknown_because:
        return 20, f"{job} is submitted; Slurm does not answer now: {unknown_because} ({waited})."
    return 15, f"{job} is submitted ({waited})."
