"""Keeps hub and gateway of one mind: reports tunnels, follows the hub's table of spawns."""

import asyncio
import logging
import random
import time

from jupyterhub_comet.tunnelbot.admissions import Admissions
from jupyterhub_comet.tunnelbot.audit import audit
from jupyterhub_comet.tunnelbot.hub import HubClient, HubUnreachable
from jupyterhub_comet.tunnelbot.metrics import Metrics
from jupyterhub_comet.tunnelbot.tunnels import Tunnels

log = logging.getLogger(__name__)

_BACKOFF_S = (0.5, 15.0)
_MIN_POLL_S = 0.2  # a hub that answers at once every time is not asked in a tight loop
_GATHER_S = 0.02  # what changes at the same time, a thousand jobs coming back, is one report
_REJECTED_S = 2.0  # the hub may not see a new pod in DNS yet


class Backoff:
    """Full-jitter waits between ``first`` and ``last`` seconds."""

    def __init__(self, first: float, last: float) -> None:
        self._first, self._last = first, last
        self._limit = first

    def reset(self) -> None:
        """Begin again with the shortest wait."""
        self._limit = self._first

    def next(self) -> float:
        """Return the next wait in seconds."""
        wait = random.uniform(self._limit / 2, self._limit)  # noqa: S311 - no secret
        self._limit = min(self._last, self._limit * 2)
        return wait


class Reporter:
    """The two loops; run() ends only by cancellation."""

    def __init__(
        self,
        hub: HubClient,
        tunnels: Tunnels,
        admissions: Admissions,
        metrics: Metrics,
        report_s: float,
    ) -> None:
        self._hub = hub
        self._tunnels = tunnels
        self._admissions = admissions
        self._metrics = metrics
        self._report_s = report_s
        self._rejected = Backoff(_REJECTED_S, report_s)
        # A full one first: the hub may know tunnels of an old process.
        self._full_at = time.monotonic()

    async def follow(self) -> None:
        """Follow the hub's table: close what has ended, move what has another port."""
        backoff = Backoff(*_BACKOFF_S)
        version = -1
        while True:
            begun = time.monotonic()
            try:
                table = await self._hub.follow(version)
            except HubUnreachable as exc:
                log.log(logging.WARNING if version >= 0 else logging.DEBUG, "%s", exc)
                version = -1  # a restarted hub counts anew
                await asyncio.sleep(backoff.next())
                continue
            backoff.reset()
            if version < 0:
                log.info("following the hub: %d spawns live", len(table.ports))
                self._full_at = time.monotonic()  # it may have been restarted
                self._tunnels.wake()
            version = table.version
            await self._admissions.confirm(table.ports, time.time())
            await self._tunnels.follow(table.ports)
            await asyncio.sleep(max(0.0, begun + _MIN_POLL_S - time.monotonic()))

    async def report(self) -> None:
        """Report each change at once and all tunnels every ``report_s`` seconds."""
        backoff = Backoff(*_BACKOFF_S)
        while True:
            await self._tunnels.wait_changed(max(0.0, self._full_at - time.monotonic()))
            await asyncio.sleep(_GATHER_S)
            full = time.monotonic() >= self._full_at
            changed = self._tunnels.take_changed()
            try:
                rejected = await self._report(changed, full=full)
            except HubUnreachable as exc:
                log.debug("%s", exc)
                wait = backoff.next()
                self._full_at = time.monotonic() + wait
                await asyncio.sleep(wait)
                continue
            backoff.reset()
            if rejected:
                self._full_at = time.monotonic() + self._rejected.next()
            elif full:
                self._rejected.reset()
                self._full_at = time.monotonic() + self._report_s

    async def say_goodbye(self) -> None:
        """Report that no tunnel of this gateway serves any more; raises HubUnreachable."""
        await self._hub.report(self._tunnels.address, [], sorted(self._tunnels.spawns), full=False)

    async def _report(self, changed: set[str], *, full: bool) -> bool:
        """Send one report; say whether the hub rejected a part of it."""
        up = self._tunnels.reports(self._tunnels.spawns if full else changed)
        gone = sorted(changed - up.keys())
        rejected = await self._hub.report(self._tunnels.address, list(up.values()), gone, full=full)
        for spawn, reason in rejected.items():
            self._metrics.rejected.inc()
            audit("report-rejected", spawn=spawn, reason=reason)
        return bool(rejected)
