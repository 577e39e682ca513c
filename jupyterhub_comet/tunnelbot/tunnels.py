"""Which spawn has which listen port and which connection serves it.

Invariants: one listener and at most one connection per spawn; a listener stands only on the
port that the hub assigned to its spawn; no port is ever served for two spawns; nothing listens
for a spawn that has not been admitted since this process started.
"""

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from jupyterhub_comet.tunnelbot.audit import audit
from jupyterhub_comet.tunnelbot.connection import JobConnection
from jupyterhub_comet.tunnelbot.hub import Report
from jupyterhub_comet.tunnelbot.listeners import NotebookListener
from jupyterhub_comet.tunnelbot.metrics import Metrics
from jupyterhub_comet.tunnelbot.policy import Admitted, Reason
from jupyterhub_comet.tunnelbot.settings import PortRange

log = logging.getLogger(__name__)


@dataclass
class _Slot:
    listener: NotebookListener
    connection: JobConnection | None = None
    serving: bool = False
    served_since: float = 0.0  # Unix seconds


class Tunnels:
    """The table of one gateway.

    Args:
        address: IP address that the listeners stand on.
        ports: the ports that may be assigned.
    """

    def __init__(self, address: str, ports: PortRange, metrics: Metrics) -> None:
        self.address = address
        self._ports = ports
        self._metrics = metrics
        self._slots: dict[str, _Slot] = {}
        self._lock = asyncio.Lock()  # one opening or closing of ports at a time
        self._changed: set[str] = set()
        self._woken = asyncio.Event()
        self._holding = True

    # Ports

    async def hold_port(self, spawn: str, port: int) -> bool:
        """Make sure that ``spawn`` has its listener on ``port``; False: it cannot be had."""
        async with self._lock:
            slot = self._slots.get(spawn)
            if slot is not None and slot.listener.port == port:
                return True
            listener = await self._listen(spawn, port)
            if slot is not None:  # whatever comes of the new port: the old one is not ours now
                slot.listener.close()
                self._audit_port("port-closed", spawn, slot.listener.port)
                if listener is None:
                    self._remove(spawn, Reason.PORT)
            if listener is None:
                return False
            if slot is None:
                self._slots[spawn] = _Slot(listener)
            else:
                self._move(spawn, slot, listener)
            return True

    async def _listen(self, spawn: str, port: int) -> NotebookListener | None:
        if port not in self._ports:
            log.error("%s: port %d of the hub is outside portRange", spawn, port)
            return None
        listener = NotebookListener(self.address, port, self._metrics)
        try:
            await listener.open()
        except OSError as exc:  # also: another spawn still holds it
            log.error("%s: cannot listen on %s:%d: %s", spawn, self.address, port, exc)
            return None
        if not self._holding:
            listener.stop_holding()
        self._audit_port("port-opened", spawn, port)
        return listener

    def _move(self, spawn: str, slot: _Slot, listener: NotebookListener) -> None:
        slot.listener = listener
        if slot.serving:
            listener.serve(slot.connection)
        self._note(spawn)

    def _remove(self, spawn: str, reason: Reason) -> None:
        """Free the spawn's port and end its connection."""
        slot = self._slots.pop(spawn)
        slot.listener.close()
        self._audit_port("port-closed", spawn, slot.listener.port)
        connection = slot.connection
        if connection is not None:
            self._down(spawn, slot, connection, reason)
            connection.end(reason)

    async def follow(self, ports: Mapping[str, int]) -> None:
        """Take the hub's table: spawns not in it have ended, ports in it are the right ones."""
        async with self._lock:
            for spawn in [s for s in self._slots if s not in ports]:
                self._remove(spawn, Reason.ENDED)
            moved = [(s, slot) for s, slot in self._slots.items() if slot.listener.port != ports[s]]
            for spawn, slot in moved:  # all of them before the first new one: ports may be swapped
                slot.listener.close()
                self._audit_port("port-closed", spawn, slot.listener.port)
            for spawn, slot in moved:
                listener = await self._listen(spawn, ports[spawn])
                if listener is None:
                    self._remove(spawn, Reason.PORT)
                else:
                    self._move(spawn, slot, listener)

    async def end(self, spawn: str, reason: Reason) -> None:
        """Free everything of one spawn; harmless if there is nothing."""
        async with self._lock:
            if spawn in self._slots:
                self._remove(spawn, reason)

    # Connections

    def connected(self, connection: JobConnection, admitted: Admitted) -> Reason | None:
        """Take a connection as the newest of its spawn; the older one is ended at once.

        A reason: the spawn has ended, or its port has moved, while the login went on.
        """
        slot = self._slots.get(connection.spawn)
        if slot is None:
            return Reason.ENDED
        if slot.listener.port != admitted.port:
            return Reason.PORT
        old = slot.connection
        if old is not None:
            self._down(connection.spawn, slot, old, Reason.REPLACED)
            old.end(Reason.REPLACED)
        slot.connection = connection
        return None

    def serving(self, connection: JobConnection) -> bool:
        """The connection has asked for its listener: hand it the visitors."""
        slot = self._slots.get(connection.spawn)
        if slot is None or slot.connection is not connection or slot.serving:
            return False
        slot.serving = True
        slot.served_since = time.time()
        slot.listener.serve(connection)
        self._metrics.tunnels.inc()
        audit("tunnel-up", spawn=connection.spawn, port=slot.listener.port)
        self._note(connection.spawn)
        return True

    def not_serving(self, connection: JobConnection) -> None:
        """The connection has given its listener back, or ended."""
        slot = self._slots.get(connection.spawn)
        if slot is not None and slot.connection is connection and slot.serving:
            slot.serving = False
            slot.listener.serve(None)
            self._metrics.tunnels.dec()
            self._note(connection.spawn)

    def lost(self, connection: JobConnection) -> None:
        """The connection has ended; its spawn's port stays."""
        slot = self._slots.get(connection.spawn)
        if slot is not None and slot.connection is connection:
            self._down(connection.spawn, slot, connection, connection.reason)

    def _down(
        self, spawn: str, slot: _Slot, connection: JobConnection, reason: Reason | None
    ) -> None:
        """Note that ``connection``, the slot's own, serves no more."""
        if slot.serving:
            slot.serving = False
            slot.listener.serve(None)
            self._metrics.tunnels.dec()
            self._note(spawn)
        slot.connection = None
        word = reason.value if reason else "lost"
        self._metrics.closed.labels(word).inc()
        audit(
            "tunnel-down",
            reason=word,
            spawn=spawn,
            port=slot.listener.port,
            seconds=round(time.monotonic() - connection.begun),
        )

    # For the reporter

    def _note(self, spawn: str) -> None:
        self._changed.add(spawn)
        self._woken.set()

    async def wait_changed(self, timeout_s: float) -> None:
        """Wait for a change since take_changed, at most ``timeout_s`` seconds."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._woken.wait()
        except TimeoutError:
            pass

    def take_changed(self) -> set[str]:
        """Return the spawns that changed since the last call."""
        changed, self._changed = self._changed, set()
        self._woken.clear()
        return changed

    def wake(self) -> None:
        """End a wait_changed without a change."""
        self._woken.set()

    @property
    def spawns(self) -> frozenset[str]:
        """All spawns that have a port here."""
        return frozenset(self._slots)

    def reports(self, spawns: Iterable[str]) -> dict[str, Report]:
        """Return those of ``spawns`` whose tunnel serves now."""
        slots = ((spawn, self._slots.get(spawn)) for spawn in spawns)
        return {
            spawn: Report(spawn, self.address, slot.listener.port, slot.served_since)
            for spawn, slot in slots
            if slot is not None and slot.serving
        }

    # Drain

    def stop_holding(self) -> None:
        """Answer visitors without a tunnel 503 at once from now on."""
        self._holding = False
        for slot in self._slots.values():
            slot.listener.stop_holding()

    def close(self) -> None:
        """Free every port."""
        for slot in self._slots.values():
            slot.listener.close()

    def _audit_port(self, event: str, spawn: str, port: int) -> None:
        audit(event, spawn=spawn, port=port)
