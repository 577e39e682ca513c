"""Kept connections to a cluster, one an account, so that no command pays for a login.

Invariants: never more than maxConnections, all accounts together; never more sessions on one
connection than sshd allows; a connection without a session is closed after idleSeconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

import asyncssh

from jupyterhub_comet.errors import ClusterUnreachable
from jupyterhub_comet.transport.hosts import LoginHosts

# sshd's MaxSessions is 10 unless the site lowers it, which `Connections.refused` notices.
_SESSIONS = 8


class Kept:
    """One connection and who uses it."""

    def __init__(
        self, account: str, host: str, connection: asyncssh.SSHClientConnection, sessions: int
    ) -> None:
        self.account = account
        self.host = host
        self.connection = connection
        self.slots = asyncio.Semaphore(sessions)
        self.users = 0
        """Sessions open or waiting for a slot."""
        self.open = 0
        self.retired = False
        """It ends when its last session does; nobody new gets it."""
        self.idle: asyncio.TimerHandle | None = None


class Connections:
    """The kept connections of one cluster.

    Args:
        hosts: makes a connection.
        idle_s: seconds that an unused connection is kept.
        limit: connections at a time.
        wait_s: seconds to wait for room among them.
    """

    def __init__(self, hosts: LoginHosts, *, idle_s: float, limit: int, wait_s: float) -> None:
        self._hosts = hosts
        self._idle_s = idle_s
        self._limit = limit
        self._wait_s = wait_s
        self._sessions = _SESSIONS
        self._kept: dict[str, Kept] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._room = asyncio.Semaphore(limit)
        self._waiting = 0
        self._all: set[Kept] = set()

    @asynccontextmanager
    async def session(self, account: str) -> AsyncIterator[Kept]:
        """Room for one session on the account's connection, which is made if need be.

        Raises:
            ClusterUnreachable: no login host lets the account in.
            Refused: the account may never log in.
            KeyBroken: the login CA or the pinned keys cannot be used.
        """
        kept = await self._take(account)
        try:
            async with kept.slots:
                kept.open += 1
                try:
                    yield kept
                finally:
                    kept.open -= 1
        finally:
            self._give_back(kept)

    def refused(self, kept: Kept) -> None:
        """sshd opened no session: the next try gets a new connection, with fewer on it.

        Each refused session leaves before the next one comes here, so what remains open in the
        end is what sshd serves.
        """
        if not kept.connection.is_closed() and kept.open > 1:
            self._sessions = min(self._sessions, kept.open - 1)
        self.retire(kept)

    def retire(self, kept: Kept) -> None:
        """Give a connection to nobody new; it ends when its last session does."""
        kept.retired = True
        if self._kept.get(kept.account) is kept:
            del self._kept[kept.account]
        if not kept.users:
            self._end(kept)

    async def close(self) -> None:
        """Close all connections, and with them what still runs on them."""
        everything = list(self._all)
        for kept in everything:
            self._end(kept)
        for kept in everything:
            await kept.connection.wait_closed()

    async def _take(self, account: str) -> Kept:
        lock = self._locks.setdefault(account, asyncio.Lock())
        async with lock:
            kept = self._kept.get(account)
            if kept is not None and kept.connection.is_closed():
                self.retire(kept)
                kept = None
            if kept is None:
                kept = self._kept[account] = await self._make(account)
            kept.users += 1
            if kept.idle is not None:
                kept.idle.cancel()
                kept.idle = None
            return kept

    async def _make(self, account: str) -> Kept:
        await self._wait_for_room()
        try:
            host, connection = await self._hosts.connect(account)
        except BaseException:
            self._room.release()
            raise
        kept = Kept(account, host, connection, self._sessions)
        self._all.add(kept)
        return kept

    async def _wait_for_room(self) -> None:
        if self._room.locked():
            unused = [kept for kept in self._kept.values() if not kept.users]
            if unused:
                self._end(unused[0])
        self._waiting += 1
        try:
            async with asyncio.timeout(self._wait_s):
                await self._room.acquire()
        except TimeoutError as exc:
            raise ClusterUnreachable(
                f"All {self._limit} connections to the login nodes are in use; "
                "try again, or raise maxConnections."
            ) from exc
        finally:
            self._waiting -= 1

    def _give_back(self, kept: Kept) -> None:
        kept.users -= 1
        if kept.users:
            return
        if kept.retired or self._waiting:
            self._end(kept)
        else:
            loop = asyncio.get_running_loop()
            kept.idle = loop.call_later(self._idle_s, self._end, kept)

    def _end(self, kept: Kept) -> None:
        if kept not in self._all:
            return
        self._all.discard(kept)
        if self._kept.get(kept.account) is kept:
            del self._kept[kept.account]
        kept.retired = True
        if kept.idle is not None:
            kept.idle.cancel()
        kept.connection.close()
        self._room.release()
