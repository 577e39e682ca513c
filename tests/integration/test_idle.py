"""The idle culler and a server whose tunnel is down."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.lab.stack import Stack

from .test_journey import start

pytestmark = pytest.mark.integration


async def test_idle_time_does_not_count_while_the_tunnel_is_down(
    make_stack: Callable[..., Stack],
) -> None:
    stack = make_stack(extra="c.Spawner.poll_interval = 1", start=False)
    stack.settings["tunnelbot"]["silenceSeconds"] = 16
    stack.write_settings()
    stack.start()
    await start(stack, "alice")
    stack.tunnelbot.kill()
    before = (await stack.hub.server("alice"))["last_activity"]
    async with asyncio.timeout(45):
        while (await stack.hub.server("alice"))["last_activity"] <= before:
            await asyncio.sleep(0.5)
    await stack.hub.stop_all()
