"""What a waiting person reads."""

import pytest

from jupyterhub_comet.progress import describe_elapsed, describe_reason, describe_wait
from jupyterhub_comet.slurm.state import Phase

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (-5, "0 s"), (59.9, "59 s"), (65, "1 min 5 s"), (7380, "2 h 3 min")],
)
def test_elapsed_in_words(seconds: float, words: str) -> None:
    assert describe_elapsed(seconds) == words


@pytest.mark.parametrize(
    ("reason", "part"),
    [
        ("Resources", "next in line"),
        ("(Priority)", "ahead of it"),
        ("QOSMaxJobsPerUserLimit", "stop one"),
        ("ReqNodeNotAvail, UnavailableNodes:comet-14-01", "maintenance"),
        ("", "look at it in a moment"),
        ("SiteOwnReason", "'SiteOwnReason'"),
    ],
)
def test_reason_is_a_clause_with_a_next_step(reason: str, part: str) -> None:
    assert part in describe_reason(reason)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"job_id": ""}, "Handing the job to Slurm"),
        ({"phase": Phase.WAITING, "reason": "Priority"}, "Job 7 waits: other jobs"),
        ({"phase": Phase.RUNNING}, "runs on comet-14-01; waiting for it to connect"),
        ({"phase": Phase.RUNNING, "nodes": ""}, "runs on its node"),
        ({"phase": Phase.RUNNING, "tunnel_up": True}, "is connected"),
        ({"phase": Phase.UNKNOWN, "unknown_because": "no answer"}, "no answer"),
        ({"phase": Phase.UNKNOWN}, "is submitted"),
    ],
    ids=["submitting", "queued", "running", "no-node", "connected", "silent", "new"],
)
def test_each_step_has_its_sentence(changes: dict[str, object], words: str) -> None:
    facts: dict[str, object] = {
        "phase": Phase.UNKNOWN,
        "reason": "",
        "job_id": "7",
        "nodes": "comet-14-01",
        "waited_s": 3.0,
        "unknown_because": "",
        "tunnel_up": False,
    }
    percent, message = describe_wait(**{**facts, **changes})  # type: ignore[arg-type]
    assert words in message
    assert 0 < percent < 100


def test_percentage_never_falls_on_the_way() -> None:
    def at(phase: Phase, *, job_id: str = "7", up: bool = False) -> int:
        return describe_wait(
            phase=phase, reason="", job_id=job_id, nodes="", waited_s=0, unknown_because="",
            tunnel_up=up,
        )[0]  # fmt: skip

    way = [
        at(Phase.UNKNOWN, job_id=""),
        at(Phase.UNKNOWN),
        at(Phase.WAITING),
        at(Phase.RUNNING),
        at(Phase.RUNNING, up=True),
    ]
    assert way == sorted(way)
