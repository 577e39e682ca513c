"""Which server is where: the hub's table of live spawns, their ports and their tunnels.

One instance lives in the hub's event loop. Invariants:

* a spawn is live from `assign` or `restore` to `end`; tunnelbot admits live spawns only;
* a listen port belongs to one live spawn at a time, over all pods of tunnelbot, and is not
  given to another one for the quarantine (routes and cookies may still point at it: T42);
* an address comes only from a report about the assigned port; never from a job.

No I/O happens here; handlers.py talks to tunnelbot and spawner.py to the hub's database.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from .errors import PortsExhausted
from .settings import PortRange


@dataclass(frozen=True)
class Tunnel:
    """Where a spawn's notebook can be reached now.

    Attributes:
        address: IP address of the tunnelbot pod that holds the tunnel.
        port: the spawn's assigned port on that pod.
        since: when it came up, `time.time()` of that pod.
    """

    address: str
    port: int
    since: float

    @property
    def url(self) -> str:
        """``http://ADDRESS:PORT``, without a slash at its end."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"http://{host}:{self.port}"


@dataclass
class Entry:
    """One live spawn."""

    spawn: str
    port: int
    user: str
    server: str
    tunnel: Tunnel | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True)
class Reported:
    """One line of tunnelbot's report: a tunnel that is up."""

    spawn: str
    address: str
    port: int
    since: float


class Registry:
    """The table.

    Args:
        ports: the ports that may be assigned.
        quarantine_s: seconds for which a freed port is not assigned again.
        silence_s: seconds after which a pod that does not report counts as lost.
        clock: for tests; seconds, monotonic.
    """

    def __init__(
        self,
        ports: PortRange,
        quarantine_s: float,
        silence_s: float = 60,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ports = ports
        self._quarantine_s = quarantine_s
        self._silence_s = silence_s
        self._clock = clock
        self._entries: dict[str, Entry] = {}
        self._by_port: dict[int, str] = {}
        self._freed: dict[int, float] = {}
        self._heard: dict[str, float] = {}
        self._next = ports.first
        # Random start: a version of a hub that has died never equals one of this hub's.
        self._version = secrets.randbits(40)
        self._version_changed = asyncio.Event()

    @property
    def version(self) -> int:
        """Changes whenever the table that `live` returns changes."""
        return self._version

    def live(self) -> dict[str, int]:
        """All live spawns with their assigned ports."""
        return {entry.spawn: entry.port for entry in self._entries.values()}

    def get(self, spawn: str) -> Entry | None:
        """The entry of a live spawn, None for an ended or unknown one."""
        return self._entries.get(spawn)

    def count(self, user: str) -> int:
        """How many live spawns a hub user has."""
        return sum(entry.user == user for entry in self._entries.values())

    def assign(self, spawn: str, user: str, server: str) -> int:
        """Make a new spawn live and give it a port.

        Raises:
            PortsExhausted: every port is in use or in quarantine.
        """
        span = self._ports.last - self._ports.first + 1
        now = self._clock()
        for offset in range(span):
            # Round robin: the port that was freed longest ago comes last.
            port = self._ports.first + (self._next - self._ports.first + offset) % span
            if port in self._by_port:
                continue
            if now - self._freed.get(port, -self._quarantine_s) < self._quarantine_s:
                continue
            self._next = port + 1
            self._enter(Entry(spawn, port, user, server))
            return port
        raise PortsExhausted(
            f"all {span} listen ports of the gateway are in use: try again in a few minutes, "
            "or ask the hub's administrators for a larger tunnelbot.portRange"
        )

    def restore(self, spawn: str, port: int, user: str, server: str) -> None:
        """Make a spawn of the database live again, as it was before the hub's restart."""
        if spawn in self._entries:
            return
        holder = self._by_port.get(port)
        if holder is not None:
            raise ValueError(f"port {port} of {spawn} is already held by {holder}")
        self._enter(Entry(spawn, port, user, server))

    def end(self, spawn: str) -> None:
        """The server is over: its certificate admits nobody from now on. Idempotent."""
        entry = self._entries.pop(spawn, None)
        if entry is None:
            return
        del self._by_port[entry.port]
        self._freed[entry.port] = self._clock()
        entry.tunnel = None
        entry.changed.set()
        self._bump()

    def report(
        self, tunnels: Iterable[Reported], gone: Iterable[str], *, address: str, full: bool
    ) -> tuple[list[Entry], dict[str, str]]:
        """Take a report of the tunnelbot pod at `address`.

        Args:
            tunnels: tunnels that are up; with `full`, all that the pod has.
            gone: spawns whose tunnel on this pod went down.

        Returns:
            The entries whose tunnel changed, and reason codes of refused lines by spawn.
        """
        changed: list[Entry] = []
        refused: dict[str, str] = {}
        named = set()
        self._heard[address] = self._clock()
        for line in tunnels:
            named.add(line.spawn)
            entry = self._entries.get(line.spawn)
            if entry is None:
                refused[line.spawn] = "unknown"
            elif line.port != entry.port:
                refused[line.spawn] = "wrong-port"
            elif line.address != address:
                refused[line.spawn] = "wrong-address"
            elif entry.tunnel is None or entry.tunnel.since < line.since:
                # The newest wins: an old pod may still list a tunnel that has moved on.
                entry.tunnel = Tunnel(address, entry.port, line.since)
                changed.append(entry)
        down = set(gone)
        if full:
            down |= {
                entry.spawn
                for entry in self._entries.values()
                if entry.tunnel is not None and entry.tunnel.address == address
            } - named
        for spawn in down - named:
            entry = self._entries.get(spawn)
            # A tunnel that has moved to another pod is not that pod's to take down.
            if entry is not None and entry.tunnel is not None and entry.tunnel.address == address:
                entry.tunnel = None
                changed.append(entry)
        for entry in changed:
            entry.changed.set()
        return changed, refused

    def tunnel(self, spawn: str) -> Tunnel | None:
        """The spawn's tunnel, None while it is down or its pod is silent."""
        entry = self._entries.get(spawn)
        if entry is None or entry.tunnel is None:
            return None
        heard = self._heard.get(entry.tunnel.address, -self._silence_s)
        return entry.tunnel if self._clock() - heard < self._silence_s else None

    async def wait_for_tunnel_change(self, spawn: str, timeout_s: float) -> None:
        """Return when the spawn's tunnel changes or it ends, or after the time-out."""
        entry = self._entries.get(spawn)
        if entry is None:
            return
        entry.changed.clear()
        try:
            await asyncio.wait_for(entry.changed.wait(), timeout_s)
        except TimeoutError:
            return

    async def wait_for_version(self, known: int, timeout_s: float) -> None:
        """Return when `version` is not `known`, or after the time-out."""
        deadline = self._clock() + timeout_s
        while self._version == known and (left := deadline - self._clock()) > 0:
            event = self._version_changed
            try:
                await asyncio.wait_for(event.wait(), left)
            except TimeoutError:
                return

    def _enter(self, entry: Entry) -> None:
        self._entries[entry.spawn] = entry
        self._by_port[entry.port] = entry.spawn
        self._freed.pop(entry.port, None)
        self._bump()

    def _bump(self) -> None:
        self._version += 1
        event, self._version_changed = self._version_changed, asyncio.Event()
        event.set()
