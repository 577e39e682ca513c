"""T16: answers that a peer asks for and never reads are not kept without end."""

# ruff: noqa: ARG002 - the double answers without looking
from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta

import asyncssh
import pytest

from jupyterhub_comet.ssh.certificate import issue_host_certificate
from jupyterhub_comet.ssh.keys import GatewayKeys, TrustSet, generate_private_key
from jupyterhub_comet.tunnelbot.connection import BUFFER_CUT, BUFFER_HIGH, JobConnection
from jupyterhub_comet.tunnelbot.metrics import Metrics
from jupyterhub_comet.tunnelbot.policy import Admitted, Decision, NotAdmitted, Reason
from jupyterhub_comet.tunnelbot.rules import make_options

pytestmark = pytest.mark.unit


class EmptyGateway:
    """A gateway that admits nobody."""

    hub_address = ("hub", 8081)

    def __init__(self, keys: GatewayKeys) -> None:
        self.keys = keys
        self.metrics = Metrics()

    async def admit(self, spawn: str) -> Decision:
        return NotAdmitted(Reason.ENDED)

    def connected(self, connection: JobConnection, admitted: Admitted) -> Reason | None:
        return Reason.ENDED

    def serving(self, connection: JobConnection) -> bool:
        return False

    def not_serving(self, connection: JobConnection) -> None: ...

    def lost(self, connection: JobConnection) -> None: ...


class NeverReadPeer(asyncio.Transport):
    """A TCP connection whose other side takes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = 0
        self.aborted = False
        self.limits: tuple[int | None, int | None] = (None, None)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.kept += len(data)

    def get_write_buffer_size(self) -> int:
        return self.kept

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.limits = (high, low)

    def abort(self) -> None:
        self.aborted = True


@pytest.fixture(scope="module")
def keys() -> GatewayKeys:
    host, host_ca = (generate_private_key("ed25519") for _ in range(2))
    end = datetime.now(tz=UTC) + timedelta(days=1)
    line = issue_host_certificate(host_ca, host, principals=["gw"], valid_before=end, serial=1)
    return GatewayKeys(host, asyncssh.import_certificate(line), end, TrustSet(frozenset(), ()))


@pytest.mark.parametrize(
    ("kept", "cut"),
    [
        pytest.param(BUFFER_HIGH, False, id="a-slow-reader-is-kept"),
        pytest.param(BUFFER_CUT + 1, True, id="T16-a-flood-is-cut"),
    ],
)
async def test_answers_that_nobody_reads_end_the_connection(
    keys: GatewayKeys, kept: int, cut: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    peer = NeverReadPeer()
    connection = JobConnection(
        asyncio.get_running_loop(), make_options(keys), EmptyGateway(keys), "192.0.2.7"
    )
    connection.connection_made(peer)
    assert peer.limits[0] == BUFFER_HIGH
    connection.data_received(b"SSH-2.0-flood\r\n")
    assert not connection.is_gone
    peer.kept = kept
    connection.data_received(b"")
    await asyncio.sleep(0)
    assert peer.aborted is cut
    assert (connection.reason is Reason.STALLED) is cut
    connection.abort()
    await connection.wait_closed()
