"""The hub's REST API as an administrator's script would use it, through the proxy."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from .waiting import LabBroken


@dataclass(frozen=True)
class Answer:
    """Status and decoded body of one request; the body is text where it is not JSON."""

    status: int
    body: Any

    @property
    def message(self) -> str:
        """The sentence in JupyterHub's error body, else the whole body as text."""
        if isinstance(self.body, dict) and "message" in self.body:
            return str(self.body["message"])
        return str(self.body)


class HubAPI:
    """Requests to ``BASE/hub/api`` with an administrator's token unless another is given."""

    def __init__(self, base_url: str, admin_token: str) -> None:
        self.base_url = base_url
        self.admin_token = admin_token

    async def api(
        self, method: str, path: str, *, json: object = None, token: str = "",
        base_url: str = "", timeout_s: float = 60,
    ) -> Answer:  # fmt: skip
        """One request; every status is an answer.

        Args:
            method: HTTP method.
            path: below /hub/api, beginning with a slash.
            json: body.
            token: whose token; the administrator's if empty.
            base_url: past the proxy, for example ``http://127.0.0.1:PORT`` of the hub itself.
            timeout_s: for the whole request.

        Raises:
            aiohttp.ClientError: nothing answered.
        """
        url = f"{base_url or self.base_url}/hub/api{path}"
        headers = {"Authorization": f"token {token or self.admin_token}"}
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.request(method, url, json=json, headers=headers) as response,
        ):
            return Answer(response.status, _decoded(await response.text()))

    async def start_server(
        self, user: str, options: Mapping[str, object] | None = None, name: str = "",
        *, token: str = "",
    ) -> Answer:  # fmt: skip
        """Ask for a server; 201 ready, 202 pending, 400 refused."""
        return await self.api("POST", _server_path(user, name), json=options or {}, token=token)

    async def stop_server(self, user: str, name: str = "") -> Answer:
        """Ask for the end of a server; 204 ended, 202 ending."""
        return await self.api("DELETE", _server_path(user, name))

    async def server(self, user: str, name: str = "") -> dict[str, Any] | None:
        """The hub's model of a server that is ready or on its way; None if there is none."""
        answer = await self.api("GET", f"/users/{user}?include_stopped_servers=1")
        if answer.status != 200:
            raise LabBroken(f"GET user {user}: {answer.status} {answer.message}")
        found: dict[str, Any] = answer.body["servers"].get(name, {})
        return found if found.get("ready") or found.get("pending") else None

    async def wait_ready(
        self, user: str, name: str = "", *, limit_s: float = 120
    ) -> dict[str, Any]:
        """The model of the server once it is ready.

        Raises:
            LabBroken: the limit was reached, or the start failed.
        """
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            server = await self.server(user, name)
            if server is not None and server["ready"]:
                return server
            if server is None:
                last = [event async for event in self.progress(user, name)]
                raise LabBroken(f"the start of {user}:{name} failed: {last[-1:]}")
            await asyncio.sleep(0.2)
        events = await self.progress_so_far(user, name)
        raise LabBroken(f"waited {limit_s:g} s for {user}:{name}; the page says {events[-1:]}")

    async def wait_stopped(self, user: str, name: str = "", *, limit_s: float = 60) -> None:
        """Wait until the hub has no such server, neither ready nor pending."""
        deadline = time.monotonic() + limit_s
        while (server := await self.server(user, name)) is not None:
            if time.monotonic() > deadline:
                raise LabBroken(f"waited {limit_s:g} s for the end of {user}:{name}: {server}")
            await asyncio.sleep(0.2)

    async def progress(
        self, user: str, name: str = "", *, limit_s: float = 120
    ) -> AsyncIterator[dict[str, Any]]:
        """Events of the page that a waiting user sees, until it closes."""
        url = f"{self.base_url}/hub/api{_server_path(user, name)}/progress"
        headers = {"Authorization": f"token {self.admin_token}"}
        timeout = aiohttp.ClientTimeout(total=limit_s)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(url, headers=headers) as response,
        ):
            async for line in response.content:
                if line.startswith(b"data:"):
                    yield json.loads(line.removeprefix(b"data:"))

    async def progress_so_far(self, user: str, name: str = "") -> list[dict[str, Any]]:
        """Events that arrive within two seconds."""
        events: list[dict[str, Any]] = []
        try:
            async for event in self.progress(user, name, limit_s=2):
                events.append(event)  # noqa: PERF401 - what came before the time-out is kept
        except TimeoutError:
            pass
        return events

    async def user_token(self, user: str, *, expires_s: int = 3600) -> str:
        """A new API token of the user's own."""
        answer = await self.api("POST", f"/users/{user}/tokens", json={"expires_in": expires_s})
        if answer.status != 201:
            raise LabBroken(f"token for {user}: {answer.status} {answer.message}")
        return str(answer.body["token"])

    async def stop_all(self, *, limit_s: float = 60) -> None:
        """Stop every server of everybody, and wait."""
        users = (await self.api("GET", "/users?include_stopped_servers=0")).body
        servers = [(user["name"], name) for user in users for name in user["servers"]]
        for user, name in servers:
            await self.stop_server(user, name)
        for user, name in servers:
            await self.wait_stopped(user, name, limit_s=limit_s)


def _server_path(user: str, name: str) -> str:
    return f"/users/{user}/servers/{name}" if name else f"/users/{user}/server"


def _decoded(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
