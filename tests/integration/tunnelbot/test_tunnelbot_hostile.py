"""Hostile peers: T1 to T4 before the login, T14 to T17 inside a tunnel (asyncssh as client)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncssh
import pytest

from tests.lab.gateway import GatewayLab, Job, visit
from tests.lab.waiting import wait_for

pytestmark = pytest.mark.integration

MB = 1024 * 1024


def memory(lab: GatewayLab) -> int:
    """Resident bytes of the gateway."""
    pages = int(Path(f"/proc/{lab.tunnelbot.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def open_files(lab: GatewayLab) -> int:
    """Open files of the gateway."""
    return len(list(Path(f"/proc/{lab.tunnelbot.process.pid}/fd").iterdir()))


@contextlib.contextmanager
def peers(lab: GatewayLab, count: int, first: bytes = b"") -> Iterator[list[socket.socket]]:
    """Raw connections to the door, each of which has sent ``first``."""
    made: list[socket.socket] = []
    try:
        for _ in range(count):
            made.append(socket.create_connection(("127.0.0.1", lab.tunnelbot.port), 10))
            made[-1].sendall(first)
        yield made
    finally:
        for sock in made:
            sock.close()


def seconds_to_close(sock: socket.socket, limit_s: float) -> float:
    """How long the gateway keeps the connection."""
    begun = time.monotonic()
    sock.settimeout(limit_s)
    with contextlib.suppress(ConnectionResetError):
        while sock.recv(4096):
            pass
    return time.monotonic() - begun


# Before the login


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", id="T1-http"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00", id="T1-tls"),
        pytest.param(b"SSH-1.0-old\r\n", id="T1-ssh-1"),
        pytest.param(b"SSH-2.0-x\r\n" + bytes(100), id="T1-zeros-after-the-version"),
        pytest.param(b"SSH-2.0-x\r\n\x7f\xff\xff\xff" + bytes(20), id="T4-packet-of-2-GiB"),
        pytest.param(b"SSH-2.0-" + b"x" * 20_000, id="T1-endless-version"),
    ],
)
def test_t1_t4_other_bytes_are_dropped_at_once(gateway: GatewayLab, first: bytes) -> None:
    with peers(gateway, 1, first) as (peer,):
        assert seconds_to_close(peer, 6) < 5
    assert "Traceback" not in gateway.log()


def test_t1_random_bytes_do_no_harm(gateway: GatewayLab) -> None:
    dice = random.Random(1)  # noqa: S311 - the same bytes every time
    before = memory(gateway)
    for round_ in range(300):
        first = dice.randbytes(dice.randrange(1, 2000))
        with peers(gateway, 1, (b"", b"SSH-2.0-x\r\n")[round_ % 2] + first):
            pass
    job, port = gateway.job()
    job.up(port)
    assert memory(gateway) - before < 20 * MB
    assert "Traceback" not in gateway.log()


def test_t2_two_hundred_stalling_peers_delay_nobody(gateway: GatewayLab) -> None:
    """A hundred silent ones and a hundred that stall after their version."""
    job, port = gateway.job()
    job.up(port)  # what ssh needs by itself on this machine
    alone_begun = time.monotonic()
    job.up(port)
    alone = time.monotonic() - alone_begun
    good, good_port = gateway.job()
    # The stalling ones come from another address: of one address only eight get a turn.
    with contextlib.ExitStack() as stack:
        stack.enter_context(peers(gateway, 100))
        for _ in range(100):
            sock = stack.enter_context(socket.socket())
            sock.bind(("127.0.0.2", 0))
            sock.connect(("127.0.0.1", gateway.tunnelbot.port))
            sock.sendall(b"SSH-2.0-stalls\r\n")
        begun = time.monotonic()
        good.up(good_port)
        assert time.monotonic() - begun < alone + 2


def test_t2_a_silent_peer_is_dropped(gateway: GatewayLab) -> None:
    with peers(gateway, 1) as (peer,):
        assert seconds_to_close(peer, 8) < 6
    assert gateway.metric('comet_tunnelbot_connections_total{outcome="silent"}') >= 1


def test_t3_a_dripping_peer_is_cut_at_the_deadline(gateway: GatewayLab) -> None:
    with peers(gateway, 1, b"SSH-2.0-") as (peer,):
        begun = time.monotonic()
        peer.settimeout(0.5)
        with contextlib.suppress(OSError):
            while time.monotonic() - begun < 14:
                peer.sendall(b"x")
                with contextlib.suppress(TimeoutError):
                    if not peer.recv(100):
                        break
        assert 8 < time.monotonic() - begun < 12


def test_closed_connections_leave_nothing_open(gateway: GatewayLab) -> None:
    files = open_files(gateway)
    with peers(gateway, 30, b"SSH-2.0-x\r\n"):
        pass
    wait_for(lambda: open_files(gateway) <= files, "the files to be closed", limit_s=10)


# Inside a tunnel


@contextlib.asynccontextmanager
async def client(
    lab: GatewayLab, job: Job, **options: object
) -> AsyncIterator[asyncssh.SSHClientConnection]:
    """asyncssh logged in as the job."""
    async with asyncssh.connect(
        "127.0.0.1",
        lab.tunnelbot.port,
        username=job.spawn,
        client_keys=[(str(job.key), str(job.certificate))],
        known_hosts=None,
        config=None,
        agent_path=None,
        **options,
    ) as connection:
        yield connection


async def test_t14_raw_requests_of_every_kind_are_refused(gateway: GatewayLab) -> None:
    """What OpenSSH cannot be made to ask for without help."""
    job, _ = gateway.job()
    async with client(gateway, job) as connection:
        refused = (asyncssh.ChannelOpenError, asyncssh.ChannelListenError)
        for request in (
            connection.create_session(asyncssh.SSHClientSession, "id"),
            connection.create_tun(asyncssh.SSHTunTapSession),
            connection.create_tap(asyncssh.SSHTunTapSession),
            connection.create_unix_connection(asyncssh.SSHUNIXSession, "/var/run/x"),
            connection.create_connection(asyncssh.SSHTCPSession, "169.254.169.254", 80),
            connection.start_unix_server(lambda: None, "/tmp/x"),
            connection.start_server(lambda *_: None, "0.0.0.0", 8888),
        ):
            with pytest.raises(refused):
                await request
        _, session = await connection.create_connection(asyncssh.SSHTCPSession, "hub", 8081)
        assert session is not None


async def test_t12_the_pair_is_given_once_in_a_connection(gateway: GatewayLab) -> None:
    job, _ = gateway.job()
    async with client(gateway, job) as connection:
        await connection.start_server(lambda *_: None, "notebook", 8888)
        connection._local_listeners = {}  # asyncssh's client would not ask twice
        with pytest.raises(asyncssh.ChannelListenError):
            await connection.start_server(lambda *_: None, "notebook", 8888)


async def test_t15_channels_are_capped(gateway: GatewayLab) -> None:
    job, port = gateway.job()
    async with client(gateway, job) as connection:
        opened = 0
        with pytest.raises(asyncssh.ChannelOpenError):
            for _ in range(100):
                await connection.create_connection(asyncssh.SSHTCPSession, "hub", 8081)
                opened += 1
        assert opened == 64
        async with asyncio.timeout(10):
            for _ in range(100):
                with contextlib.suppress(asyncssh.ChannelOpenError):
                    await connection.create_connection(asyncssh.SSHTCPSession, "hub", 8081)
            await connection.wait_closed()
    assert f"reason=too-many-requests spawn={job.spawn}" in gateway.log()
    await asyncio.to_thread(job.up, port)


class NeverReads(asyncssh.SSHTCPSession[bytes]):
    """Takes a channel and never reads from it."""

    def connection_made(self, chan: asyncssh.SSHTCPChannel[bytes]) -> None:
        chan.pause_reading()


async def push(port: int, seconds: float) -> int:
    """Send to a notebook as fast as it takes it; the bytes that were taken."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    sent = 0
    with contextlib.suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(seconds):
            while True:
                writer.write(bytes(MB))
                await writer.drain()
                sent += MB
    writer.transport.abort()
    return sent


async def test_t16_a_huge_window_that_is_never_read_takes_little_memory(
    gateway: GatewayLab,
) -> None:
    """The peer grants 2 GiB and stops reading its TCP connection: 297 MiB in stock asyncssh."""
    job, port = gateway.job()
    async with client(gateway, job) as connection:
        await connection.create_server(lambda *_: NeverReads(), "notebook", 8888, window=2**31 - 1)
        await asyncio.to_thread(wait_for, lambda: f"tunnel-up spawn={job.spawn}" in gateway.log(),
                                "the tunnel", limit_s=5)  # fmt: skip
        before = memory(gateway)
        transport = connection._transport
        assert transport is not None
        pushing = asyncio.create_task(push(port, 4))
        await asyncio.sleep(0.2)
        transport.pause_reading()
        sent = await pushing
        grown = memory(gateway) - before
        transport.resume_reading()
    assert sent > 4 * MB  # the window was granted, so the flow was there to be stopped
    assert grown < 20 * MB, f"{grown / MB:.0f} MB for {sent / MB:.0f} MB sent"


async def test_t17_channels_that_are_never_confirmed_are_given_up(gateway: GatewayLab) -> None:
    job, port = gateway.job()

    async def never(*_: object) -> asyncssh.SSHTCPSession[bytes]:
        await asyncio.Event().wait()
        raise AssertionError

    async with client(gateway, job) as connection:
        await connection.create_server(lambda *_: never(), "notebook", 8888)
        before = memory(gateway)
        begun = time.monotonic()
        pushing = [asyncio.create_task(push(port, 15)) for _ in range(20)]
        status, _ = await asyncio.to_thread(visit, port)
        assert status == 503
        assert 8 < time.monotonic() - begun < 13
        grown = memory(gateway) - before
        await asyncio.gather(*pushing)
    assert grown < 20 * MB, f"{grown / MB:.0f} MB"
    await asyncio.to_thread(job.up, port)


async def test_t17_many_unanswered_channels_end_the_tunnel(gateway: GatewayLab) -> None:
    job, port = gateway.job()

    async def never(*_: object) -> asyncssh.SSHTCPSession[bytes]:
        await asyncio.Event().wait()
        raise AssertionError

    async with client(gateway, job) as connection:
        await connection.create_server(lambda *_: never(), "notebook", 8888)
        writers = [(await asyncio.open_connection("127.0.0.1", port))[1] for _ in range(65)]
        async with asyncio.timeout(5):
            await connection.wait_closed()
        for writer in writers:
            writer.transport.abort()
    assert f"reason=stalled spawn={job.spawn}" in gateway.log()
