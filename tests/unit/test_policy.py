"""tunnelbot's rules as tables: certificates, destinations, admissions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyterhub_comet.ssh.principal import new_spawn_id
from jupyterhub_comet.tunnelbot.policy import (
    REMEMBERED_S,
    Admitted,
    Decision,
    HubAnswer,
    NotAdmitted,
    Reason,
    Remembered,
    decide,
    farewell,
    may_connect,
    may_listen,
    refuse_certificate,
)

pytestmark = pytest.mark.unit

SPAWN, OTHER = new_spawn_id(), new_spawn_id()
NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("user_name", "principals", "ca_trusted", "expected"),
    [
        pytest.param(SPAWN, [SPAWN], True, None, id="own-certificate"),
        pytest.param(SPAWN, [OTHER], True, Reason.PRINCIPALS, id="T8-another-server"),
        pytest.param(SPAWN, [], True, Reason.PRINCIPALS, id="T9-no-principals"),
        pytest.param(SPAWN, [SPAWN, OTHER], True, Reason.PRINCIPALS, id="T9-two-principals"),
        pytest.param(SPAWN, [SPAWN], False, Reason.UNKNOWN_CA, id="T10-own-ca"),
        pytest.param("root", ["root"], True, Reason.USER_NAME, id="T11-root"),
        pytest.param("", [""], True, Reason.USER_NAME, id="empty-name"),
        pytest.param(SPAWN.upper(), [SPAWN.upper()], True, Reason.USER_NAME, id="capitals"),
    ],
)
def test_certificates(
    user_name: str, principals: list[str], ca_trusted: bool, expected: Reason | None
) -> None:
    assert refuse_certificate(user_name, principals, ca_trusted=ca_trusted) is expected


@pytest.mark.parametrize(
    ("host", "port", "allowed"),
    [
        pytest.param("hub", 8081, True, id="the-pair"),
        pytest.param("HUB", 8081, False, id="T13-capitals"),
        pytest.param("hub.", 8081, False, id="T13-dot"),
        pytest.param("hub\x00", 8081, False, id="T13-nul"),
        pytest.param(" hub", 8081, False, id="T13-space"),
        pytest.param("hub", 8082, False, id="T13-port"),
        pytest.param("127.0.0.1", 8081, False, id="T13-loopback"),
        pytest.param("notebook", 8888, False, id="T13-the-other-pair"),
    ],
)
def test_destinations(host: str, port: int, allowed: bool) -> None:
    assert may_connect(host, port) is allowed


@pytest.mark.parametrize(
    ("host", "port", "allowed"),
    [
        pytest.param("notebook", 8888, True, id="the-pair"),
        pytest.param("notebook", 0, False, id="T12-port-0"),
        pytest.param("", 8888, False, id="T12-all-addresses"),
        pytest.param("0.0.0.0", 8888, False, id="T12-any"),
        pytest.param("hub", 8081, False, id="T12-the-other-pair"),
    ],
)
def test_listeners(host: str, port: int, allowed: bool) -> None:
    assert may_listen(host, port) is allowed


@given(st.text(max_size=30), st.integers(0, 65535))
def test_any_other_pair_is_refused(host: str, port: int) -> None:
    assert may_connect(host, port) == ((host, port) == ("hub", 8081))
    assert may_listen(host, port) == ((host, port) == ("notebook", 8888))


LIVE = HubAnswer(known=True, admit=True, port=20001, reason="live")
PENDING = HubAnswer(known=True, admit=False, port=20001, reason="pending")
UNKNOWN = HubAnswer(known=False, reason="unknown")
RECENT = Remembered(20007, NOW - 60)
OLD = Remembered(20007, NOW - REMEMBERED_S - 1)


@pytest.mark.parametrize(
    ("answer", "remembered", "expected"),
    [
        pytest.param(LIVE, None, Admitted(20001), id="live"),
        pytest.param(LIVE, RECENT, Admitted(20001), id="T42-the-hubs-port-beats-memory"),
        pytest.param(
            PENDING, RECENT, NotAdmitted(Reason.REFUSED_BY_HUB, "pending"), id="T21-pending"
        ),
        pytest.param(UNKNOWN, RECENT, NotAdmitted(Reason.ENDED, "unknown"), id="T20-ended"),
        pytest.param(None, None, NotAdmitted(Reason.HUB_UNREACHABLE), id="F22-unknown-hub-down"),
        pytest.param(None, RECENT, Admitted(20007, from_memory=True), id="F22-known-hub-down"),
        pytest.param(None, OLD, NotAdmitted(Reason.HUB_UNREACHABLE), id="F22-known-a-day-ago"),
    ],
)
def test_admissions(
    answer: HubAnswer | None, remembered: Remembered | None, expected: Decision
) -> None:
    assert decide(answer, remembered, NOW) == expected


@pytest.mark.parametrize("reason", list(Reason))
def test_only_an_end_tells_the_starter_to_stay_away(reason: Reason) -> None:
    assert ("this server has ended" in farewell(reason)) == (reason is Reason.ENDED)
