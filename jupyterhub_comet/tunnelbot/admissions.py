"""The memory of admitted spawns: what lets known servers return while the hub is down.

A file in the state folder (an emptyDir: it outlives the container, not the pod). Holds spawn
ids, ports and times, no secret. Writes are atomic; a file that cannot be read is an empty one,
because the hub can always be asked instead.
"""

import asyncio
import json
import logging
from collections.abc import Mapping
from pathlib import Path

from jupyterhub_comet.ssh.principal import is_spawn_id
from jupyterhub_comet.tunnelbot.policy import REMEMBERED_S, Remembered

log = logging.getLogger(__name__)

_CONFIRM_EVERY_S = 300.0  # writing a new time for everybody: seldom is enough for 24 h


class Admissions:
    """Spawns admitted earlier, kept in ``folder``/admissions.json."""

    def __init__(self, folder: Path, now: float) -> None:
        self._path = folder / "admissions.json"
        self._lock = asyncio.Lock()
        self._change = self._stored = 0  # counts of changes made, and in the file
        self._written = now
        self._spawns = self._load(now)

    def _load(self, now: float) -> dict[str, Remembered]:
        try:
            data = json.loads(self._path.read_text(encoding="utf-8"))
            spawns = {
                spawn: Remembered(int(entry["port"]), float(entry["confirmed"]))
                for spawn, entry in data["spawns"].items()
                if is_spawn_id(spawn)
            }
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
            log.error("%s cannot be read, nobody is remembered: %r", self._path, exc)
            return {}
        return {s: r for s, r in spawns.items() if now - r.confirmed <= REMEMBERED_S}

    def recall(self, spawn: str) -> Remembered | None:
        """Return what is known of ``spawn``, or None."""
        return self._spawns.get(spawn)

    async def remember(self, spawn: str, port: int, now: float) -> None:
        """Keep an admission that the hub has just given."""
        known = self._spawns.get(spawn)
        self._spawns[spawn] = Remembered(port, now)
        if known is None or known.port != port:
            await self._write(now)

    async def forget(self, spawn: str, now: float) -> None:
        """Drop a spawn that the hub says has ended."""
        if self._spawns.pop(spawn, None) is not None:
            await self._write(now)

    async def confirm(self, live: Mapping[str, int], now: float) -> None:
        """Take the hub's table: those in it live, with its ports; the others have ended."""
        kept = {s: Remembered(live[s], now) for s in self._spawns if s in live}
        changed = {s: r.port for s, r in kept.items()} != {
            s: r.port for s, r in self._spawns.items()
        }
        self._spawns = kept
        if changed or now - self._written >= _CONFIRM_EVERY_S:
            await self._write(now)

    async def _write(self, now: float) -> None:
        self._change += 1
        change = self._change
        async with self._lock:
            if self._stored >= change:  # the writer before us took ours along
                return
            self._written = now
            change = self._change
            text = json.dumps(
                {
                    "spawns": {
                        s: {"port": r.port, "confirmed": r.confirmed}
                        for s, r in self._spawns.items()
                    }
                }
            )
            try:
                await asyncio.to_thread(self._replace, text)
            except OSError as exc:
                # Costs only the return of servers while the hub is down as well.
                log.error("%s cannot be written: %s", self._path, exc)
            self._stored = change

    def _replace(self, text: str) -> None:
        temporary = self._path.with_suffix(".new")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(self._path)
