"""The hub API that tunnelbot uses; its service token alone opens it.

GET  .../comet/spawns/{spawn}       may this spawn open a tunnel, and on which port?
GET  .../comet/spawns?version=N     the table of live spawns, once it is not version N
POST .../comet/tunnels              which tunnels are up, on which pod
"""

from __future__ import annotations

import asyncio
import json
import socket

from jupyterhub import orm
from jupyterhub.apihandlers.base import APIHandler
from tornado.web import HTTPError

from .context import context
from .registry import Entry, Reported
from .ssh.principal import is_spawn_id

SERVICE_NAME = "tunnelbot"

# A request for the table is answered after this long at the latest.
_TABLE_WAIT_S = 25.0
# Longest that a login waits for a fresh squeue; sshd's client waits 10 s and more.
_PENDING_WAIT_S = 8.0


class TunnelbotHandler(APIHandler):
    """Base: refuses everybody but the service named tunnelbot."""

    async def prepare(self) -> None:
        """403 for users, admins and other services, whatever their scopes."""
        await super().prepare()
        caller = self.current_user
        if not isinstance(caller, orm.Service) or caller.name != SERVICE_NAME:
            raise HTTPError(403, "This is for the service tunnelbot only.")

    def spawner_of(self, entry: Entry) -> object | None:
        """The entry's spawner, None where its user or server has gone."""
        user = self.find_user(entry.user)
        return user.spawners.get(entry.server) if user is not None else None


class SpawnHandler(TunnelbotHandler):
    """One spawn's right to a tunnel."""

    async def get(self, spawn: str) -> None:
        """Answer with the verdict; 404 for whatever is not live."""
        entry = context().registry.get(spawn) if is_spawn_id(spawn) else None
        spawner = self.spawner_of(entry) if entry is not None else None
        if entry is None or spawner is None:
            self.set_status(404)
            self.finish(json.dumps({"reason": "unknown"}))
            return
        pending = await self._pending(spawner)
        self.finish(
            json.dumps(
                {
                    "spawn": spawn,
                    "port": entry.port,
                    "user": entry.user,
                    "server": entry.server,
                    "job": spawner.job_id,  # type: ignore[attr-defined]
                    "verdict": "refuse" if pending else "admit",
                    "reason": "pending" if pending else "live",
                }
            )
        )

    @staticmethod
    async def _pending(spawner: object) -> bool:
        try:
            return await asyncio.wait_for(spawner.is_pending(), _PENDING_WAIT_S)  # type: ignore[attr-defined]
        except TimeoutError:
            # Slurm is silent: unknown is not pending.
            return False


class SpawnsHandler(TunnelbotHandler):
    """The table of all live spawns."""

    async def get(self) -> None:
        """Answer once the table differs from the caller's version, at most after 25 s."""
        registry = context().registry
        try:
            known = int(self.get_query_argument("version", "-1"))
        except ValueError as exc:
            raise HTTPError(400, "version: a whole number is needed") from exc
        await registry.wait_for_version(known, _TABLE_WAIT_S)
        self.finish(json.dumps({"version": registry.version, "spawns": registry.live()}))


class TunnelsHandler(TunnelbotHandler):
    """Reports of tunnelbot's pods."""

    async def post(self) -> None:
        """Take a report; lines that are refused come back with a reason code."""
        body = self.get_json_body() or {}
        try:
            address = str(body["address"])
            tunnels = [
                Reported(
                    str(line["spawn"]),
                    str(line["address"]),
                    int(line["port"]),
                    float(line["since"]),
                )
                for line in body.get("tunnels", [])
            ]
            gone = [str(spawn) for spawn in body.get("gone", [])]
            full = bool(body.get("full", False))
        except (KeyError, TypeError, ValueError) as exc:
            raise HTTPError(400, f"the report has no known form: {exc!r}") from exc
        if address not in await self._pod_addresses():
            self.log.warning("report from %s refused: no pod of tunnelbot has it", address)
            raise HTTPError(403, f"{address} is no address of tunnelbot's pods")
        changed, refused = context().registry.report(tunnels, gone, address=address, full=full)
        for spawn, reason in refused.items():
            self.log.warning("report about %s refused: %s", spawn, reason)
        for entry in changed:
            await self._follow(entry)
        self.finish(
            json.dumps({"rejected": [{"spawn": s, "reason": r} for s, r in refused.items()]})
        )

    async def _follow(self, entry: Entry) -> None:
        tunnel = entry.tunnel
        self.log.info(
            "%s:%s tunnel %s",
            entry.user,
            entry.server,
            f"up at {tunnel.address}:{tunnel.port}" if tunnel else "down",
        )
        spawner = self.spawner_of(entry)
        if spawner is not None:
            await spawner.follow_tunnel()  # type: ignore[attr-defined]

    @staticmethod
    async def _pod_addresses() -> set[str]:
        """Addresses of the headless Service; empty, so nobody, when it does not resolve."""
        name = context().settings.tunnelbot.pod_service
        try:
            found = await asyncio.get_running_loop().getaddrinfo(
                name, None, type=socket.SOCK_STREAM
            )
        except OSError:
            return set()
        return {str(info[4][0]) for info in found}


HANDLERS = [
    (r"/api/comet/spawns", SpawnsHandler),
    (r"/api/comet/spawns/([a-z0-9-]+)", SpawnHandler),
    (r"/api/comet/tunnels", TunnelsHandler),
]
