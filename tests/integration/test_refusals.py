"""What is refused, how it is said, and that the hub goes on."""

from __future__ import annotations

import asyncio

import pytest

from tests.lab.stack import Stack

from .test_journey import SHARED, start

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("tidy_servers")]

REFUSED = [
    ({"profile": "huge"}, "profile", "shared"),
    ({"profile": "shared", "colour": "red"}, "colour", "cores"),
    ({"profile": "shared", "account": "$(id)"}, "account", "letters"),
    ({"profile": "shared", "walltime": "99-00:00:00"}, "walltime", "01:00:00"),
    ({"profile": "shared", "partition": "secret"}, "partition", "profile"),
    ({"profile": "shared", "cores": 7}, "cores", "12"),
    ({"profile": "shared", "gpus": 1}, "gpus", "shared"),
]


@pytest.mark.parametrize(("options", "field", "allowed"), REFUSED, ids=lambda value: str(value))
async def test_option_is_refused_with_its_field(
    stack: Stack, options: dict[str, object], field: str, allowed: str
) -> None:
    answer = await stack.hub.start_server("alice", options)
    assert answer.status == 400
    message = answer.message
    assert field in message
    assert allowed in message
    assert stack.slurm.queue("alice") == []


async def test_F46_hub_outlives_ten_refusals_in_a_row(stack: Stack) -> None:
    pid = stack.hub.process.pid
    for _ in range(10):
        answer = await stack.hub.start_server("alice", {"profile": "shared", "account": "nobody9"})
        assert answer.status in {201, 202, 400}
        await stack.hub.wait_stopped("alice")
    assert stack.hub.process.pid == pid
    await start(stack, "alice")


async def test_refused_options_are_no_defaults_of_the_next_start(stack: Stack) -> None:
    assert (await stack.hub.start_server("alice", {"profile": "huge"})).status == 400
    answer = await stack.hub.api("POST", "/users/alice/server", token=stack.hub.admin_token)
    assert answer.status in {201, 202}
    await stack.hub.wait_ready("alice")


async def test_slurms_own_refusal_reaches_the_user(stack: Stack) -> None:
    answer = await stack.hub.start_server("alice", {**SHARED, "account": "nobody9"})
    text = answer.message if answer.status >= 400 else await failure(stack, "alice")
    assert "account" in text
    assert "nobody9" in text


async def test_F26_login_node_down_is_said_and_passes(stack: Stack) -> None:
    stack.login.stop()
    try:
        async with asyncio.timeout(30):
            answer = await stack.hub.start_server("alice", SHARED)
            text = answer.message if answer.status >= 400 else await failure(stack, "alice")
    finally:
        stack.login.start()
    assert "login" in text.lower()
    await stack.hub.wait_stopped("alice")
    await start(stack, "alice")


async def failure(stack: Stack, user: str) -> str:
    """The pending page's last word on a start that fails."""
    async for event in stack.hub.progress(user):
        if event.get("failed"):
            return str(event["message"])
    raise AssertionError("the start did not fail")
