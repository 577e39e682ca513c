"""The door: accepts connections and lets a bounded number of handshakes run at a time.

Order for each connection: accept, wait for the client's ``SSH-`` (peeked, 5 s), a slot of its
source, a slot of all, then the SSH handshake (10 s). A slot is held only while we spend CPU on
a stranger; it was measured that silent peers, and peers that send a banner and stall, then
delay nobody. The slot is given back when the certificate is proven: the wait for the hub's
word is not a handshake.
"""

import asyncio
import contextlib
import ipaddress
import logging
import socket
from collections.abc import AsyncIterator, Callable

import asyncssh

from jupyterhub_comet.tunnelbot.connection import HANDSHAKE_S, Gateway, JobConnection

log = logging.getLogger(__name__)

BACKLOG = 4096  # a thousand jobs come back at once; asyncssh's 100 drops them
BANNER_S = 5.0
MAX_WAITING = 2000  # connections before their handshake
HANDSHAKES = 32
HANDSHAKES_PER_SOURCE = 8
_BANNER = b"SSH-"


def source_of(address: str) -> str:
    """Return what counts as one source: an IPv4 address, or an IPv6 network of 64 bits."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ipaddress.ip_network((ip, 64), strict=False))


class Slots:
    """At most ``total`` holders, at most ``per_source`` of one source; the others queue."""

    def __init__(self, total: int, per_source: int) -> None:
        self._total = asyncio.Semaphore(total)
        self._per_source = per_source
        self._sources: dict[str, tuple[asyncio.Semaphore, int]] = {}

    @contextlib.asynccontextmanager
    async def hold(self, source: str) -> AsyncIterator[None]:
        """Wait for a slot and hold it."""
        semaphore, users = self._sources.get(source, (asyncio.Semaphore(self._per_source), 0))
        self._sources[source] = (semaphore, users + 1)
        try:
            # The source's own first: a crowd of one source queues among itself.
            async with semaphore, self._total:
                yield
        finally:
            semaphore, users = self._sources[source]
            if users == 1:
                del self._sources[source]
            else:
                self._sources[source] = (semaphore, users - 1)


class Door:
    """The listening socket and what happens up to a proven certificate.

    Args:
        options: returns asyncssh's options for the next connection (keys may have changed).
    """

    def __init__(
        self,
        host: str,
        port: int,
        gateway: Gateway,
        options: Callable[[], asyncssh.SSHServerConnectionOptions],
    ) -> None:
        self._address = (host, port)
        self._gateway = gateway
        self._options = options
        self._slots = Slots(HANDSHAKES, HANDSHAKES_PER_SOURCE)
        self._socket: socket.socket | None = None  # while accepting
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def is_open(self) -> bool:
        """Whether connections are accepted."""
        return self._socket is not None

    def open(self) -> int:
        """Start to listen and return the port; raises OSError."""
        family = socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET
        sock = socket.create_server(
            self._address,
            family=family,
            backlog=BACKLOG,
            dualstack_ipv6=family == socket.AF_INET6 and self._address[0] == "::",
        )
        sock.setblocking(False)
        self._socket = sock
        return int(sock.getsockname()[1])

    async def run(self) -> None:
        """Accept until cancelled; then drop those who have not proven a certificate."""
        assert self._socket is not None  # noqa: S101 - open() comes first
        try:
            await self._accept(self._socket)
        finally:
            self._socket.close()
            self._socket = None
            for task in self._tasks:
                task.cancel()

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, name = await loop.sock_accept(listening)
            except OSError as exc:  # out of files: live tunnels go on, new ones wait
                log.error("accept failed, pausing: %s", exc)
                await asyncio.sleep(1)
                continue
            if len(self._tasks) >= MAX_WAITING:
                self._count("crowded")
                sock.close()
                continue
            task = loop.create_task(self._greet(sock, str(name[0])))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _count(self, outcome: str) -> None:
        self._gateway.metrics.connections.labels(outcome).inc()

    async def _greet(self, sock: socket.socket, address: str) -> None:
        """Take one connection up to a proven certificate, or drop it."""
        try:
            with sock:  # closed here unless the transport takes it over
                sock.setblocking(False)
                if not await self._speaks_ssh(sock):
                    return
                async with self._slots.hold(source_of(address)):
                    await self._shake_hands(socket.socket(fileno=sock.detach()), address)
        except OSError as exc:
            self._count("broken")
            log.debug("%s: %s", address, exc)

    async def _speaks_ssh(self, sock: socket.socket) -> bool:
        """Wait for the first bytes, without taking them, and say whether they are SSH's."""
        # Readable means from now on: four bytes, or an end.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, len(_BANNER))
        try:
            async with asyncio.timeout(BANNER_S):
                await _readable(sock)
        except TimeoutError:
            self._count("silent")
            return False
        if sock.recv(len(_BANNER), socket.MSG_PEEK) != _BANNER:
            self._count("not-ssh")
            return False
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
        return True

    async def _shake_hands(self, sock: socket.socket, address: str) -> None:
        loop = asyncio.get_running_loop()

        def make() -> JobConnection:
            return JobConnection(loop, self._options(), self._gateway, address)

        try:
            _, connection = await loop.connect_accepted_socket(make, sock)
        except BaseException:
            sock.close()
            raise
        with self._gateway.metrics.handshakes.track_inprogress():
            try:
                async with asyncio.timeout(HANDSHAKE_S):
                    await connection.settled.wait()
            except TimeoutError:
                self._count("slow")
                connection.abort()
            except asyncio.CancelledError:
                connection.abort()
                raise
            else:
                self._count("handshake" if connection.spawn else "no-login")


async def _readable(sock: socket.socket) -> None:
    """Wait until ``sock`` can be read."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    loop.add_reader(sock.fileno(), lambda: None if ready.done() else ready.set_result(None))
    try:
        await ready
    finally:
        loop.remove_reader(sock.fileno())
