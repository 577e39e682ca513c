"""The hub's API for tunnelbot: ask about a spawn, follow the table, report tunnels.

Invariant: only a complete answer of the hub's own handlers counts as an answer. Anything
else (no connection, 5xx, a 404 from somewhere in between, a wrong token) is HubUnreachable,
which never ends a tunnel.
"""

import asyncio
import contextlib
import dataclasses
import json
import logging
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from jupyterhub_comet.errors import Unreachable
from jupyterhub_comet.ssh.principal import is_spawn_id
from jupyterhub_comet.tunnelbot.metrics import Metrics
from jupyterhub_comet.tunnelbot.policy import HubAnswer

log = logging.getLogger(__name__)

ASK_TIMEOUT_S = 10.0  # the hub holds a login up to 8 s while it asks Slurm
POLL_TIMEOUT_S = 40.0  # the hub answers after 25 s at the latest
REPORT_TIMEOUT_S = 10.0


class HubUnreachable(Unreachable):
    """The hub gave no answer that could be used; the message says why."""


@dataclass(frozen=True)
class Report:
    """One tunnel that serves: where hub and proxy find the notebook."""

    spawn: str
    address: str
    port: int
    since: float  # Unix seconds; of two pods that claim a spawn the hub believes the later


@dataclass(frozen=True)
class LiveTable:
    """All live spawns with the ports assigned to them."""

    version: int
    ports: Mapping[str, int]


class HubClient:
    """Client of the hub's API with the service token, kept in a file and read when needed."""

    def __init__(self, api_url: str, token_file: Path, metrics: Metrics) -> None:
        self._url = api_url.rstrip("/") + "/comet"
        self._token_file = token_file
        self._token = ""
        self._metrics = metrics
        # The hub is one process: a thousand tunnels coming back ask it 64 at a time.
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=64), cookie_jar=aiohttp.DummyCookieJar()
        )

    async def close(self) -> None:
        """Close kept connections."""
        await self._http.close()

    @property
    def has_token(self) -> bool:
        """Whether a token has been read."""
        return bool(self._token)

    async def read_token(self) -> bool:
        """Read the token's file; return True if the token is a new one."""
        try:
            token = (await asyncio.to_thread(self._token_file.read_text, "utf-8")).strip()
        except (OSError, UnicodeDecodeError) as exc:
            log.error("token file %s cannot be read: %s", self._token_file, exc)
            return False
        changed = bool(token) and token != self._token
        self._token = token or self._token
        return changed

    async def ask(self, spawn: str) -> HubAnswer:
        """Ask whether ``spawn`` lives, and its port; raises HubUnreachable."""
        status, body = await self._request("ask", "GET", f"/spawns/{spawn}", ASK_TIMEOUT_S)
        with self._readable("ask"):
            if status == 404:
                return HubAnswer(known=False, reason=str(body["reason"]))
            return HubAnswer(
                known=True,
                admit=body["verdict"] == "admit",
                port=int(body["port"]),
                reason=str(body.get("reason") or ""),
            )

    async def follow(self, version: int) -> LiveTable:
        """Return the table when its version is not ``version``, or the same after a while."""
        _, body = await self._request("follow", "GET", f"/spawns?version={version}", POLL_TIMEOUT_S)
        with self._readable("follow"):
            ports = {str(spawn): int(port) for spawn, port in body["spawns"].items()}
            if not all(is_spawn_id(spawn) for spawn in ports):
                raise ValueError("a key is not a spawn id")
            return LiveTable(int(body["version"]), ports)

    async def report(
        self, address: str, tunnels: Sequence[Report], gone: Sequence[str], *, full: bool
    ) -> dict[str, str]:
        """Report tunnels of the pod at ``address``; return those that the hub did not take,
        with its reasons. Raises HubUnreachable.
        """
        payload = {
            "full": full,
            "address": address,
            "tunnels": [dataclasses.asdict(tunnel) for tunnel in tunnels],
            "gone": list(gone),
        }
        _, body = await self._request("report", "POST", "/tunnels", REPORT_TIMEOUT_S, payload)
        with self._readable("report"):
            return {str(r["spawn"]): str(r["reason"]) for r in body["rejected"]}

    async def _request(
        self, what: str, method: str, path: str, timeout_s: float, payload: object = None
    ) -> tuple[int, Any]:
        """Send one request; a refused token is read from its file again, once."""
        async with self._counted(what):
            status, body = await self._send(method, path, timeout_s, payload)
            if status in (401, 403) and await self.read_token():
                status, body = await self._send(method, path, timeout_s, payload)
            if status == 200 or (status == 404 and what == "ask" and "reason" in body):
                return status, body
            raise HubUnreachable(f"{what}: the hub answered {status}")

    @contextlib.asynccontextmanager
    async def _counted(self, what: str) -> AsyncIterator[None]:
        try:
            yield
        except HubUnreachable:
            self._metrics.hub_requests.labels(what, "failed").inc()
            self._metrics.hub_up.set(0)
            raise
        self._metrics.hub_requests.labels(what, "ok").inc()
        self._metrics.hub_up.set(1)

    async def _send(
        self, method: str, path: str, timeout_s: float, payload: object
    ) -> tuple[int, dict[str, Any]]:
        try:
            async with self._http.request(
                method,
                self._url + path,
                json=payload,
                headers={"Authorization": f"token {self._token}"},
                timeout=aiohttp.ClientTimeout(total=timeout_s),
                allow_redirects=False,  # the token goes to the hub and nowhere else
            ) as response:
                text = await response.text()
                status = response.status
        except (aiohttp.ClientError, TimeoutError, OSError, UnicodeDecodeError) as exc:
            cause = str(exc) or type(exc).__name__  # a time-out has no text
            raise HubUnreachable(f"{method} {path.partition('?')[0]}: {cause}") from exc
        try:
            body = json.loads(text)
        except ValueError:
            body = {}
        return status, body if isinstance(body, dict) else {}

    @contextlib.contextmanager
    def _readable(self, what: str) -> Iterator[None]:
        """Turn an answer of another form into HubUnreachable."""
        try:
            yield
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            raise HubUnreachable(f"{what}: the hub's answer has another form ({exc!r})") from exc
