"""What of a server the hub's database keeps."""

from dataclasses import replace

import pytest

from jupyterhub_comet.errors import SettingsBroken
from jupyterhub_comet.state import ServerState

pytestmark = pytest.mark.unit

STATE = ServerState(
    spawn="t-" + "a" * 26,
    port=20000,
    user="alice",
    server="",
    cluster="comet",
    account="alice",
    created="2026-11-25T01:02:03+00:00",
    walltime_s=3600,
)


def test_state_comes_back_as_it_was() -> None:
    full = replace(STATE, job_id="7", submit_time="2026-11-25T01:02:04+00:00", answered=True)
    for state in (STATE, full):
        assert ServerState.from_json(state.to_json()) == state
    assert STATE.submitted_at is None
    assert full.submitted_at is not None
    assert (full.submitted_at - full.created_at).total_seconds() == 1


def test_keys_of_a_newer_version_are_left_out() -> None:
    assert ServerState.from_json({**STATE.to_json(), "invented_later": 1}) == STATE


def test_incomplete_state_is_named() -> None:
    data = STATE.to_json()
    del data["port"]
    with pytest.raises(SettingsBroken, match="port"):
        ServerState.from_json(data)
