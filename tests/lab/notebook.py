"""A running server as a browser uses it: kernels over REST and websocket, through the proxy."""

from __future__ import annotations

import asyncio
import json
import uuid
from types import TracebackType
from typing import Any, Self

import aiohttp
import websockets

from .hub_api import HubAPI
from .waiting import LabBroken

# Statuses of a way to the notebook that is interrupted, but may come back.
_INTERRUPTED = frozenset({502, 503, 504})
_RETRY_S = 0.5


class CellFailed(Exception):
    """The code raised; the text is the kernel's error name and value."""


class Notebook:
    """One server, seen by the holder of a token.

    Args:
        hub: the hub whose proxy leads to the server.
        user: whose server.
        token: a token that may access it.
        name: the server's name; empty: the default server.
    """

    def __init__(self, hub: HubAPI, user: str, token: str, name: str = "") -> None:
        self.url = f"{hub.base_url}/user/{user}/{name + '/' if name else ''}"
        self._headers = {"Authorization": f"token {token}"}
        self._kernels: list[Kernel] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        for kernel in self._kernels:
            await kernel.close()

    async def get(self, path: str) -> tuple[int, str]:
        """Status and body of a request to the server, redirects not followed."""
        return await self._request("GET", path)

    async def start_kernel(self) -> Kernel:
        """A new Python kernel."""
        status, body = await self._request("POST", "api/kernels")
        if status != 201:
            raise LabBroken(f"POST {self.url}api/kernels: {status} {body[:500]}")
        return self.kernel(json.loads(body)["id"])

    def kernel(self, kernel_id: str) -> Kernel:
        """A kernel that runs already, after a reconnect for example."""
        kernel = Kernel(self.url, self._headers, kernel_id)
        self._kernels.append(kernel)
        return kernel

    async def _request(self, method: str, path: str) -> tuple[int, str]:
        timeout = aiohttp.ClientTimeout(total=60)
        async with (
            aiohttp.ClientSession(timeout=timeout, headers=self._headers) as session,
            session.request(method, self.url + path, allow_redirects=False) as response,
        ):
            return response.status, await response.text()


class Kernel:
    """One kernel; its websocket is opened at first use and again after it broke."""

    def __init__(self, url: str, headers: dict[str, str], kernel_id: str) -> None:
        self.id = kernel_id
        self._session = uuid.uuid4().hex
        self._headers = headers
        self._url = (
            f"ws{url.removeprefix('http')}api/kernels/{kernel_id}/channels"
            f"?session_id={self._session}"
        )
        self._socket: websockets.ClientConnection | None = None

    async def run(self, code: str, *, limit_s: float = 60) -> str:
        """Run code; what it printed and its last value, without white space at the ends.

        Raises:
            CellFailed: the code raised.
            TimeoutError: no way to the kernel, or no end of the cell, within the limit.
            websockets.WebSocketException: refused (403, 404), or cut in the middle of the cell.
        """
        async with asyncio.timeout(limit_s):
            socket = await self._connected()
            message_id = uuid.uuid4().hex
            await socket.send(json.dumps(self._request(message_id, code)))
            return await self._output(socket, message_id)

    async def close(self) -> None:
        """Close the websocket; the kernel stays."""
        if self._socket is not None:
            await self._socket.close()
            self._socket = None

    async def _connected(self) -> websockets.ClientConnection:
        """The open websocket; as a browser does, tried again while the way is interrupted."""
        while self._socket is None or self._socket.close_code is not None:
            try:
                self._socket = await websockets.connect(
                    self._url, additional_headers=self._headers, max_size=None, proxy=None
                )
            except websockets.InvalidStatus as exc:
                if exc.response.status_code not in _INTERRUPTED:
                    raise
                await asyncio.sleep(_RETRY_S)
            except (websockets.InvalidMessage, OSError):
                # The proxy's own 503 to a websocket has no reason phrase, which is no HTTP.
                await asyncio.sleep(_RETRY_S)
        return self._socket

    def _request(self, message_id: str, code: str) -> dict[str, object]:
        return {
            "header": {
                "msg_id": message_id, "msg_type": "execute_request", "username": "",
                "session": self._session, "version": "5.3",
            },
            "parent_header": {}, "metadata": {}, "channel": "shell", "buffers": [],
            "content": {
                "code": code, "silent": False, "store_history": False,
                "user_expressions": {}, "allow_stdin": False, "stop_on_error": True,
            },
        }  # fmt: skip

    @staticmethod
    async def _output(socket: websockets.ClientConnection, message_id: str) -> str:
        """Text of one execution: it has ended when both the reply and "idle" have come."""
        text: list[str] = []
        replied = idle = False
        while not (replied and idle):
            message: dict[str, Any] = json.loads(await socket.recv())
            if message.get("parent_header", {}).get("msg_id") != message_id:
                continue
            content = message["content"]
            match message["msg_type"]:
                case "stream":
                    text.append(content["text"])
                case "execute_result" | "display_data":
                    text.append(content["data"].get("text/plain", ""))
                case "error":
                    raise CellFailed(f"{content['ename']}: {content['evalue']}")
                case "execute_reply":
                    replied = True
                case "status":
                    idle = content["execution_state"] == "idle"
        return "".join(text).strip()
