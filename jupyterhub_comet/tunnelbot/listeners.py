"""One lasting listen port for one server: hub and proxy come here for the notebook.

The gateway owns the port for the spawn's life. Each visitor is handed to the tunnel that is
there now; while none is there it is held for a while and then gets a complete HTTP 503, so
that a browser sees "try again", never a reset, and never another server's notebook.
"""

import asyncio
import logging
from typing import Protocol

import asyncssh

from jupyterhub_comet.tunnelbot.forwards import SocketEnd
from jupyterhub_comet.tunnelbot.metrics import Metrics

log = logging.getLogger(__name__)

HOLD_S = 10.0
MAX_HELD = 64  # visitors of one server that wait at the same time
LINGER_S = 2.0  # for a visitor to read its 503

_BODY = b"The notebook's tunnel is away for a moment; try again.\n"
_UNAVAILABLE = (
    b"HTTP/1.1 503 Service Unavailable\r\n"
    b"Content-Type: text/plain; charset=utf-8\r\n"
    b"Content-Length: %d\r\n"
    b"Retry-After: 5\r\n"
    b"Cache-Control: no-store\r\n"
    b"Connection: close\r\n"
    b"\r\n" % len(_BODY)
) + _BODY


class NotebookLink(Protocol):
    """A tunnel that can carry a visitor to its notebook."""

    @property
    def is_gone(self) -> bool:
        """Whether the tunnel has ended."""

    async def open_notebook(self, end: SocketEnd) -> bool:
        """Join ``end`` to the notebook; False if the notebook does not take it.

        Raises asyncssh.ChannelOpenError, also when the tunnel ends meanwhile.
        """


class NotebookListener:
    """The listen port of one spawn, on ``address``:``port``."""

    def __init__(self, address: str, port: int, metrics: Metrics) -> None:
        self.address = address
        self.port = port
        self._metrics = metrics
        self._server: asyncio.Server | None = None
        self._link: NotebookLink | None = None
        self._changed = asyncio.Event()
        self._held = 0
        self._holding = True
        self._visits: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Start to listen; raises OSError when the port cannot be had."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            self._visitor, self.address, self.port, backlog=128, reuse_address=True
        )
        self._metrics.listeners.inc()

    def close(self) -> None:
        """Stop to listen and cut every visitor: the port may be another server's next.

        Does not wait: Server.wait_closed() of Python >= 3.12 waits for open visitors.
        """
        if self._server is not None:
            self._server.close()
            self._server = None
            self._metrics.listeners.dec()
        self._link, self._holding = None, False  # for a visitor who was just being accepted
        for task in self._visits:
            task.cancel()

    def serve(self, link: NotebookLink | None) -> None:
        """Hand visitors to ``link`` from now on; None: hold them."""
        self._link = link
        self._changed.set()
        self._changed = asyncio.Event()

    def stop_holding(self) -> None:
        """Answer 503 at once where there is no tunnel: none will come back to this pod."""
        self._holding = False
        self._changed.set()
        self._changed = asyncio.Event()

    def _visitor(self) -> SocketEnd:
        return _Visitor(self)

    def begin_visit(self, end: SocketEnd) -> None:
        """Take care of a visitor who has just come."""
        task = asyncio.get_running_loop().create_task(self._visit(end))
        self._visits.add(task)
        task.add_done_callback(self._visits.discard)

    async def _visit(self, end: SocketEnd) -> None:
        """Bring one visitor to the notebook and stay until it has gone."""
        try:
            if await self._hand_over(end):
                self._metrics.requests.labels("served").inc()
                await end.closed
            else:
                self._metrics.requests.labels("unavailable").inc()
                await self._answer_unavailable(end)
        finally:
            end.close(abort=True)

    async def _hand_over(self, end: SocketEnd) -> bool:
        """Join ``end`` to the notebook by the newest tunnel, waiting for one if need be."""
        deadline = asyncio.get_running_loop().time() + HOLD_S
        while (link := await self._link_before(deadline)) is not None:
            try:
                return await link.open_notebook(end)
            except asyncssh.ChannelOpenError as exc:
                if not link.is_gone:
                    log.debug("port %d: the notebook takes no connection: %s", self.port, exc)
                    return False
                # The tunnel broke under our hands: the visitor waits for the next one.
        return False

    async def _link_before(self, deadline: float) -> NotebookLink | None:
        """Return the tunnel that serves now, or the next one to come; None: too late."""
        if self._held >= MAX_HELD:
            return None
        self._held += 1
        try:
            async with asyncio.timeout_at(deadline):
                while self._link is None or self._link.is_gone:
                    if not self._holding:
                        return None
                    await self._changed.wait()
                return self._link
        except TimeoutError:
            return None
        finally:
            self._held -= 1

    async def _answer_unavailable(self, end: SocketEnd) -> None:
        end.write(_UNAVAILABLE)
        end.write_eof()
        end.discard()  # a request that nobody read would turn the close into a reset
        await asyncio.wait({end.closed}, timeout=LINGER_S)


class _Visitor(SocketEnd):
    def __init__(self, listener: NotebookListener) -> None:
        super().__init__()
        self._listener = listener

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._listener.begin_visit(self)
