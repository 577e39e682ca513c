"""Bytes between a TCP socket and an SSH channel, both ways, with bounded buffers.

asyncssh's own forwarder keeps whatever arrives before a channel is open and trusts the peer's
window, so a hostile peer decides how much memory it takes (60 MiB and 297 MiB were measured).
Here:

- a socket is not read before its channel is open (but for one first piece): the kernel's
  buffer is the only one;
- a socket is not read while its channel waits for window, nor while the SSH connection's own
  write buffer is above its limit (Link.congested);
- a channel is not read while its socket cannot be written: asyncssh then grants no new window.
"""

import asyncio
import socket
import struct
from typing import Protocol, cast

import asyncssh

OPEN_TIMEOUT_S = 10.0
CHANNEL_WINDOW = 2 * 1024 * 1024  # bytes: 10 Gbit/s over 1 ms, 40 MB/s over 50 ms
HUB_CHANNEL_WINDOW = 256 * 1024  # the hub's API needs no more


# SO_LINGER with no time: close sends a reset in place of an end.
_RESET = struct.pack("ii", 1, 0)


class Link(Protocol):
    """The SSH connection that carries channels, as its sockets see it."""

    @property
    def congested(self) -> bool:
        """Whether its write buffer is above the limit."""

    def attach(self, end: "SocketEnd") -> None:
        """Tell ``end`` from now on when the congestion begins and ends."""

    def detach(self, end: "SocketEnd") -> None:
        """Undo attach; harmless when not attached."""


class SocketEnd(asyncio.Protocol):
    """The TCP side: of a visitor who wants a notebook, or towards the hub."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._channel: asyncssh.SSHTCPChannel[bytes] | None = None
        self._link: Link | None = None
        self._congested = False
        self._channel_full = False
        self._early = b""
        self._discarding = False
        self._eof_sent = False
        self.ended = False  # the other side sends no more
        self.closed = asyncio.get_running_loop().create_future()

    @property
    def is_closing(self) -> bool:
        """Whether the socket is closed, or about to be."""
        return self._transport is None or self._transport.is_closing()

    @property
    def peer(self) -> tuple[str, int]:
        """Address and port of the other side."""
        name = self._transport.get_extra_info("peername") if self._transport else None
        return (str(name[0]), int(name[1])) if name else ("", 0)

    def join(self, channel: asyncssh.SSHTCPChannel[bytes], link: Link) -> None:
        """Start to pass bytes to and from ``channel``."""
        self._channel = channel
        self._link = link
        link.attach(self)
        self._congested = link.congested
        if self._early:
            channel.write(self._early)
            self._early = b""
        if self.ended:
            channel.write_eof()
        self._read_or_not()

    def set_congested(self, congested: bool) -> None:
        """Stop reading while the SSH connection is congested."""
        self._congested = congested
        self._read_or_not()

    def set_channel_full(self, full: bool) -> None:
        """Stop reading while the channel waits for window."""
        self._channel_full = full
        self._read_or_not()

    def _read_or_not(self) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        wanted = self._discarding or (
            self._channel is not None and not self._congested and not self._channel_full
        )
        if wanted and not self._transport.is_reading():
            self._transport.resume_reading()
        elif not wanted and self._transport.is_reading():
            self._transport.pause_reading()

    def write(self, data: bytes) -> None:
        """Send bytes to the other side; dropped when it has gone."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def write_eof(self) -> None:
        """Tell the other side that nothing follows."""
        self._eof_sent = True
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write_eof()

    def discard(self) -> None:
        """Read and drop what still comes, so that a last answer is not lost in a reset."""
        self._discarding = True
        self._read_or_not()

    def close(self, *, abort: bool = False) -> None:
        """Close, after what was written has gone out; or at once, with a reset, by ``abort``."""
        if self._transport is None:
            return
        if abort:
            sock = self._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._transport.abort()
        else:
            self._transport.close()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A pod that vanished sends nothing, not even a reset.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
        # uvloop begins to read after this method, whatever is asked for inside it, and may
        # have read one piece by the time this is called: _early keeps it.
        asyncio.get_running_loop().call_soon(self._read_or_not)

    def data_received(self, data: bytes) -> None:
        if self._discarding:
            return
        if self._channel is None:
            self._early += data
            self._read_or_not()
        elif not self._channel.is_closing():
            self._channel.write(data)

    def eof_received(self) -> bool:
        self.ended = True
        if self._discarding:
            return False
        if self._channel is None:
            return True  # join tells it on
        if self._channel.is_closing():
            return False
        self._channel.write_eof()
        return not self._eof_sent  # half open: the answer may still come

    def pause_writing(self) -> None:
        if self._channel is not None:
            self._channel.pause_reading()

    def resume_writing(self) -> None:
        if self._channel is not None:
            self._channel.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._link is not None:
            self._link.detach(self)
            self._link = None
        if self._channel is not None:
            if exc is None:
                self._channel.close()
            else:
                self._channel.abort()
            self._channel = None
        self._transport = None
        if not self.closed.done():
            self.closed.set_result(None)


class ChannelEnd(asyncssh.SSHTCPSession[bytes]):
    """The SSH side of one forwarded connection."""

    def __init__(self, end: SocketEnd, link: Link) -> None:
        self._end = end
        self._link = link
        self._ended = False

    def connection_made(self, chan: asyncssh.SSHTCPChannel[bytes]) -> None:
        if self._end.is_closing:  # confirmed too late: the visitor was answered long ago
            chan.abort()
        else:
            self._end.join(chan, self._link)

    def data_received(self, data: bytes, datatype: int | None) -> None:  # noqa: ARG002
        self._end.write(data)

    def eof_received(self) -> bool:
        self._ended = True
        self._end.write_eof()
        if self._end.ended:  # both directions are done
            self._end.close()
        return True

    def pause_writing(self) -> None:
        self._end.set_channel_full(True)

    def resume_writing(self) -> None:
        self._end.set_channel_full(False)

    def connection_lost(self, exc: Exception | None) -> None:
        # Cut off without an end (the tunnel broke): the other side must see a reset, or it
        # takes half an answer for a whole one.
        self._end.close(abort=exc is not None or not self._ended)


async def connect_hub(link: Link, host: str, port: int) -> ChannelEnd:
    """Connect to the hub for a channel that a job asked for.

    Raises asyncssh.ChannelOpenError when the hub cannot be reached in OPEN_TIMEOUT_S.
    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(OPEN_TIMEOUT_S):
            _, end = await loop.create_connection(SocketEnd, host, port)
    except (OSError, TimeoutError) as exc:
        raise asyncssh.ChannelOpenError(
            asyncssh.OPEN_CONNECT_FAILED, "the hub cannot be reached"
        ) from exc
    return ChannelEnd(end, link)
