"""A server's state after the hub's restart: the one module that touches JupyterHub's privates.

At its start the hub asks each server's URL and would stop whatever does not answer there
within http_timeout. A server of ours may well be silent then, because its job still waits in
the queue or its tunnel is on its way back, so

* `SilentServer` answers the hub's `wait_up` at once, and
* `resume_start` puts a server that never answered into the state ``pending: spawn`` with a
  live future, as if its start had never been interrupted: progress streams, DELETE cancels.

JupyterHub 5.5 and 6.1 agree on every attribute used here: `_spawn_pending`,
`_spawn_future` (spawner.py), `wait_up` (objects.py, called by User._wait_up).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

from jupyterhub.objects import Server
from traitlets import Unicode


class SilentServer(Server):
    """A server that counts as up while its tunnel is being found again."""

    notebook_version = Unicode(help="JupyterHub version that the notebook reported before.")

    async def wait_up(self, *_args: object, **_kwargs: object) -> SimpleNamespace:
        """Return at once what User._wait_up reads of an answer: its headers."""
        return SimpleNamespace(headers={"X-JupyterHub-Version": self.notebook_version or None})


def is_starting(spawner: Any) -> bool:
    """Whether a start (or a resumed one) of this server is under way."""
    return bool(spawner._spawn_pending)


def resume_start(
    spawner: Any,
    wait: Callable[[], Coroutine[Any, Any, None]],
    failed: Callable[[], Coroutine[Any, Any, None]],
) -> None:
    """Make the server pending again and let `wait` finish its start.

    Args:
        spawner: the spawner, as the hub's start check holds it.
        wait: returns when the notebook answers and its route is set; raises when it never will.
        failed: ends the server; awaited after `wait` raised, before the failure is shown.
    """

    async def finish() -> None:
        try:
            await wait()
        except Exception:
            await failed()
            raise

    def done(future: asyncio.Future[None]) -> None:
        # As JupyterHub does after a start: a failure stays, for the page that shows it.
        if future.cancelled() or future.exception() is None:
            spawner._spawn_future = None
        spawner._spawn_pending = False

    spawner._spawn_pending = True
    spawner._spawn_future = asyncio.ensure_future(finish())
    spawner._spawn_future.add_done_callback(done)
