"""Slurm's words: every one has a meaning, and what is not known never ends a server."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyterhub_comet.slurm.state import JobState, Phase, classify, describe_end

pytestmark = pytest.mark.unit

MEANINGS = {
    Phase.WAITING: "PENDING PD CONFIGURING CF REQUEUED RQ REQUEUE_FED RF REQUEUE_HOLD RH "
    "SPECIAL_EXIT SE RESV_DEL_HOLD RD",
    Phase.RUNNING: "RUNNING R SUSPENDED S STOPPED ST SIGNALING SI RESIZING RS",
    Phase.ENDING: "COMPLETING CG STAGE_OUT SO",
    Phase.ENDED: "BOOT_FAIL BF CANCELLED CA COMPLETED CD DEADLINE DL FAILED F NODE_FAIL NF "
    "OUT_OF_MEMORY OOM PREEMPTED PR REVOKED RV TIMEOUT TO",
    Phase.UNKNOWN: "UNKNOWN HYPERSPACE error: (null) n/a",
}


@pytest.mark.parametrize(
    ("word", "phase"),
    [(word, phase) for phase, words in MEANINGS.items() for word in words.split()],
)
def test_word_has_its_meaning(word: str, phase: Phase) -> None:
    assert classify(word).phase is phase
    assert classify(word.lower()).phase is phase


def test_every_state_has_a_meaning() -> None:
    assert all(isinstance(state.phase, Phase) for state in JobState)
    assert all(classify(state.value) is state for state in JobState)


@pytest.mark.parametrize(
    "text", ["CANCELLED by 10001", "CANCELLED+", " cancelled ", "CANCELLED*", "CA"]
)
def test_what_follows_the_word_is_dropped(text: str) -> None:
    assert classify(text) is JobState.CANCELLED


@given(st.text())
def test_no_text_makes_it_fail(text: str) -> None:
    assert classify(text) in JobState


def test_end_is_said_with_slurms_word_and_exit_code() -> None:
    assert describe_end(JobState.FAILED, "3:0") == "it failed (FAILED, exit code 3:0)"
    assert describe_end(JobState.TIMEOUT, "0:0") == "its walltime is over (TIMEOUT)"
    for state in JobState:
        if state.phase is Phase.ENDED:
            assert describe_end(state).endswith(f"({state.value})")
