"""What Slurm prints, captured from the version in each file's name, and what else it may print.

Captured with the mark MARK; bob's comment holds line ends, separators, a forged record for
alice's job 1, and the mark itself, which no real owner of a job can know.
"""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyterhub_comet.errors import OutputUnreadable
from jupyterhub_comet.slurm.parse import (
    SACCT_FIELDS,
    SEPARATOR,
    JobRecord,
    one_per_job,
    parse_duration,
    parse_sacct,
    parse_squeue,
    parse_submitted,
    parse_time,
    squeue_format,
)
from jupyterhub_comet.slurm.state import JobState, Phase

pytestmark = pytest.mark.unit

DATA = Path(__file__).parents[1] / "data"
QUEUES = sorted(DATA.glob("squeue-[0-9]*.txt"))
EMPTY = sorted(DATA.glob("squeue-empty-*.txt"))
ACCOUNTS = sorted(DATA.glob("sacct-*.txt"))


def read(path: Path) -> str:
    return path.read_bytes().decode()


def row(*fields: str) -> str:
    return SEPARATOR.join(("MARK", *fields, "MARK")) + "\n"


HEADER = row("JOBID", *("X" * 10))
PENDING = ("PENDING", "1795571184", "N/A", "N/A", "5:00", "shared", "demo", "", "Priority")


@pytest.mark.parametrize("path", QUEUES, ids=lambda path: path.stem)
def test_captured_queue_is_read(path: Path) -> None:
    jobs = {record.job_id: record for record in parse_squeue(read(path), "MARK")}
    running = jobs["1"]
    assert running.user == "alice"
    assert running.state is JobState.RUNNING
    assert running.partition == "shared"
    assert running.nodes == "comet-14-01"
    assert running.reason == ""
    assert running.comment == "t-aaaaaaaaaaaaaaaaaaaaaaaaaa"
    assert running.submit_time is not None
    assert running.time_left_s is not None
    assert 3500 < running.time_left_s <= 3600
    assert jobs["2"].state is JobState.FAILED
    assert jobs["4"].reason == "JobHeldUser"
    assert jobs["4"].start_time is None
    assert jobs["6"].time_left_s == 2 * 86400
    assert jobs["7"].phase is Phase.ENDED
    assert jobs["8"].phase is Phase.RUNNING  # suspended


@pytest.mark.parametrize("path", QUEUES, ids=lambda path: path.stem)
def test_T43_captured_comment_forges_nothing(path: Path) -> None:
    records = parse_squeue(read(path), "MARK")
    assert [record.user for record in records if record.job_id == "1"] == ["alice"]
    (forger,) = [record for record in records if record.job_id == "3"]
    assert (forger.user, forger.state) == ("bob", JobState.RUNNING)
    assert forger.comment.startswith("x\n1\x1falice")


@pytest.mark.parametrize("path", EMPTY, ids=lambda path: path.stem)
def test_captured_empty_queue_is_a_healthy_answer(path: Path) -> None:
    assert parse_squeue(read(path), "MARK") == []


@pytest.mark.parametrize("path", ACCOUNTS, ids=lambda path: path.stem)
def test_captured_accounting_is_read(path: Path) -> None:
    jobs = {record.job_id: record for record in parse_sacct(read(path))}
    assert (jobs["2"].state, jobs["2"].exit_code) == (JobState.FAILED, "3:0")
    assert jobs["2"].end_time is not None
    assert jobs["7"].state is JobState.CANCELLED  # "CANCELLED by 0"
    assert jobs["1"].end_time is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "Welcome to Comet!\n",
        "\ufffd\ufffd <<<motd>>>\tNaN|\x00|\nslurm: ??? \x1b[31m\n",
        row("1", "alice", *PENDING),  # no header: the front is missing
        HEADER + row("1", "alice", *PENDING)[:-6],  # the end is missing
        HEADER + row("1", "alice", *PENDING)[:20],
        HEADER + row("1", "alice", "PENDING"),
        HEADER + row("", "alice", *PENDING),
        HEADER + row("1.batch", "alice", *PENDING),
        HEADER + row("1" * 5 + "x", "alice", *PENDING),
    ],
    ids=lambda text: ascii(text[-30:]),
)
def test_answer_in_part_is_no_answer(text: str) -> None:
    with pytest.raises(OutputUnreadable):
        parse_squeue(text, "MARK")


def test_lines_around_the_records_are_skipped() -> None:
    text = "CLUSTER: expanse\n" + HEADER + "motd\n" + row("12", "bob", *PENDING) + "bye\n"
    assert [record.job_id for record in parse_squeue(text, "MARK")] == ["12"]


def test_only_wanted_jobs_are_read_and_yet_all_must_be_whole() -> None:
    text = HEADER + row("12", "bob", *PENDING) + row("13", "bob", *PENDING)
    assert [record.job_id for record in parse_squeue(text, "MARK", {"13", "14"})] == ["13"]
    assert parse_squeue(text, "MARK", set()) == []
    with pytest.raises(OutputUnreadable):
        parse_squeue(text[:-6], "MARK", {"12"})


def test_huge_job_id_stays_as_it_is() -> None:
    (record,) = parse_squeue(HEADER + row("4294967294", "bob", *PENDING), "MARK")
    assert record.job_id == "4294967294"


@pytest.mark.parametrize("order", [1, -1], ids=["in order", "reversed"])
def test_of_several_lines_for_a_job_the_most_alive_counts(order: int) -> None:
    states = [JobState.FAILED, JobState.UNKNOWN, JobState.PENDING, JobState.RUNNING]
    records = [JobRecord("7", "alice", state) for state in states][::order]
    assert one_per_job(records)["7"].state is JobState.RUNNING


def test_stage_out_is_waiting_before_a_start_and_ending_after() -> None:
    assert JobRecord("7", "alice", JobState.STAGE_OUT).phase is Phase.WAITING
    assert JobRecord("7", "alice", JobState.STAGE_OUT, nodes="n1").phase is Phase.ENDING


def test_format_and_reader_agree() -> None:
    letters = squeue_format("m", comment=True).split(SEPARATOR)
    assert letters[0] == letters[-1] == "m"
    assert letters[-2] == "%k"


comments = st.text(st.characters(codec="utf-8")).filter(lambda text: "MARK" not in text)


@given(st.lists(comments, max_size=5))
def test_T43_no_comment_makes_or_hides_a_record(texts: list[str]) -> None:
    rows = [row(str(n), "bob", *PENDING, text) for n, text in enumerate(texts, 1)]
    records = parse_squeue(HEADER + "".join(rows), "MARK")
    assert [record.job_id for record in records] == [str(n) for n in range(1, len(texts) + 1)]
    assert {record.user for record in records} <= {"bob"}


@given(st.text())
def test_no_text_makes_the_readers_fail_otherwise(text: str) -> None:
    with pytest.raises(OutputUnreadable):
        parse_squeue(text, "MARK")
    with pytest.raises(OutputUnreadable):
        parse_sacct(text)


SACCT = SEPARATOR.join(SACCT_FIELDS)


@pytest.mark.parametrize(
    "text", ["", "12|alice\n", SACCT + "\n12\x1falice\n"], ids=["nothing", "other", "in part"]
)
def test_accounting_in_part_is_no_answer(text: str) -> None:
    with pytest.raises(OutputUnreadable):
        parse_sacct(text)


def test_steps_and_noise_are_no_jobs() -> None:
    rest = ["alice", "FAILED", "1:0", "Unknown", "Unknown", "Unknown", "shared", "demo", "n1"]
    lines = [SEPARATOR.join([job, *rest]) for job in ("12", "12.batch", "12.extern", "12.0")]
    text = "\n".join(["warning: noise", SACCT, *lines, ""])
    assert [record.job_id for record in parse_sacct(text)] == ["12"]


@pytest.mark.parametrize(
    "text",
    [
        "1234\n",
        "1234;expanse\n",
        "Submitted batch job 1234\n",
        "Submitted batch job 1234 on cluster slaking\n",
        "no partition specified, using default\naklog: a ticket\n1234\n",
        "1234\nYour balance is 12 SU\n",
        "  1234  \n\n",
        "1234\n1234;expanse\n",
    ],
    ids=ascii,
)
def test_job_id_is_found_in_what_sbatch_prints(text: str) -> None:
    assert parse_submitted(text) == "1234"


@pytest.mark.parametrize(
    "text", ["", "\n", "0\n", "-5\n", "12 34\n", "1234\n1235\n", "1234;ex panse\n", "١٢"], ids=ascii
)
def test_no_clear_job_id_is_unreadable(text: str) -> None:
    with pytest.raises(OutputUnreadable):
        parse_submitted(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 1800),
        ("30:00", 1800),
        ("0:00", 0),
        ("1:00:00", 3600),
        ("99:59:59", 359999),
        ("2-0", 172800),
        ("1-12:30", 131400),
        ("1-00:00:00", 86400),
        ("99-00:00:00", 99 * 86400),
        ("UNLIMITED", None),
        ("infinite", None),
        ("NOT_SET", None),
        ("INVALID", None),
        ("N/A", None),
        ("(null)", None),
        ("", None),
    ],
)
def test_duration_in_any_of_slurms_forms(text: str, seconds: int | None) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["soon", "-1", "1-", "1:2:3:4", "1h", "1.5", "9" * 5000])
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("1795571184", datetime(2026, 11, 25, 1, 46, 24, tzinfo=UTC)),
        ("2026-11-25T01:46:24", datetime(2026, 11, 25, 1, 46, 24, tzinfo=UTC)),
        *((text, None) for text in ("N/A", "Unknown", "", "0", "soon", "9" * 30, "9" * 5000)),
    ],
)
def test_time_as_seconds_or_standard(text: str, time: datetime | None) -> None:
    assert parse_time(text) == time
