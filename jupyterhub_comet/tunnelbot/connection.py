"""One SSH connection of a job: certificate login, the two forwards, and nothing else.

Built on asyncssh 2.24. Three of its private names are overridden or read (all marked here);
if a later version renames them every login is refused, because a login needs what the
override records: tests/integration/test_tunnelbot_login.py holds them.
"""

import asyncio
import functools
import logging
import sys
import time
from dataclasses import dataclass
from typing import Any, Protocol, cast

import asyncssh
from asyncssh.public_key import SSHOpenSSHCertificate

from jupyterhub_comet.ssh.keys import GatewayKeys
from jupyterhub_comet.tunnelbot import policy
from jupyterhub_comet.tunnelbot.audit import audit
from jupyterhub_comet.tunnelbot.forwards import (
    CHANNEL_WINDOW,
    HUB_CHANNEL_WINDOW,
    OPEN_TIMEOUT_S,
    ChannelEnd,
    SocketEnd,
    connect_hub,
)
from jupyterhub_comet.tunnelbot.metrics import Metrics
from jupyterhub_comet.tunnelbot.policy import Admitted, Decision, NotAdmitted, Reason

log = logging.getLogger(__name__)

HANDSHAKE_S = 10.0  # from the first bytes to a proven certificate
MAX_TRIES = 6  # logins tried in one connection; asyncssh has no limit of its own
MAX_CHANNELS = 64  # opened by the job
MAX_REFUSED = 64  # requests that no rule allows, then the connection is ended
MAX_UNCONFIRMED = 64  # opened by us and not answered yet

# The peer's window decides how much asyncssh writes, so the connection's own buffer is bound:
# above HIGH no socket is read for it, above CUT (replies that nobody reads) it is aborted.
BUFFER_HIGH = 4 * 1024 * 1024
BUFFER_LOW = 1024 * 1024
BUFFER_CUT = 16 * 1024 * 1024


class Gateway(Protocol):
    """What a connection needs of the gateway around it."""

    metrics: Metrics
    hub_address: tuple[str, int]

    @property
    def keys(self) -> GatewayKeys:
        """The keys in force."""

    async def admit(self, spawn: str) -> Decision:
        """Decide whether ``spawn`` may have a tunnel now."""

    def connected(self, connection: "JobConnection", admitted: Admitted) -> Reason | None:
        """Take an admitted connection as its spawn's newest; a reason: it must go again."""

    def serving(self, connection: "JobConnection") -> bool:
        """The connection has asked for its listener; False: it is not the newest any more."""

    def not_serving(self, connection: "JobConnection") -> None:
        """The connection has given its listener back."""

    def lost(self, connection: "JobConnection") -> None:
        """The connection has ended."""


@dataclass(frozen=True)
class ShownCertificate:
    """A certificate that passed every check, for the audit log."""

    key_id: str
    serial: int
    ca: str


class JobConnection(asyncssh.SSHServerConnection):
    """asyncssh's connection with the checks and bounds that it does not have."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        options: asyncssh.SSHServerConnectionOptions,
        gateway: Gateway,
        source: str,
    ) -> None:
        super().__init__(loop, options)
        self.gateway = gateway
        self.source = source
        self.spawn = ""
        self.admitted: Admitted | None = None
        self.certificate: ShownCertificate | None = None
        self.reason: Reason | None = None  # why it ended, if we ended it
        self.begun = time.monotonic()
        # Set when the certificate is proven or the connection has ended: no more of our CPU.
        self.settled = asyncio.Event()
        self.is_gone = False
        self.congested = False
        self._tcp: asyncio.Transport | None = None
        self._ends: set[SocketEnd] = set()
        self._refusal: Reason | None = None
        self._tries = 0
        self._unconfirmed = 0
        self._refused_requests = 0

    # Login

    async def reload_config(self) -> None:
        """Do nothing: no configuration file, so nothing depends on the user's name."""

    async def _validate_openssh_certificate(  # private name of asyncssh
        self, username: str, cert: SSHOpenSSHCertificate
    ) -> asyncssh.SSHKey | None:
        trusted = self.gateway.keys.trusted.trusts(cert.signing_key)
        self._refusal = policy.refuse_certificate(username, cert.principals, ca_trusted=trusted)
        if self._refusal is not None:
            return None
        key = await super()._validate_openssh_certificate(username, cert)
        if key is None:
            self._refusal = Reason.CERTIFICATE
            return None
        self.certificate = ShownCertificate(
            key_id=str(cert._key_id),  # private name of asyncssh
            serial=int(cert._serial),  # private name of asyncssh
            ca=cert.signing_key.get_fingerprint(),
        )
        return key

    async def validate_public_key(
        self, username: str, key_data: bytes, msg: bytes, signature: bytes
    ) -> bool:
        """Check a certificate; with a signature, also ask the hub.

        Raises asyncssh.DisconnectError when the hub refuses: its text tells the starter
        whether to come back.
        """
        self.certificate, self._refusal = None, None
        valid = await super().validate_public_key(username, key_data, msg, signature)
        if self.certificate is None:  # refused, a plain key, or asyncssh went another way
            self._refused(self._refusal or Reason.NOT_A_CERTIFICATE, username)
            return False
        if not valid:
            self._refused(Reason.SIGNATURE, username)
            return False
        self._count_try()
        if not msg:
            return True
        self.spawn = username
        self.settled.set()
        decision = await self.gateway.admit(username)
        if isinstance(decision, NotAdmitted):
            self._refused(decision.reason, username, decision.detail)
            raise asyncssh.DisconnectError(
                asyncssh.DISC_NO_MORE_AUTH_METHODS_AVAILABLE,
                policy.farewell(decision.reason, decision.detail),
            )
        self.admitted = decision
        return True

    def send_userauth_failure(self, partial_success: bool) -> None:
        """Count each refusal, of whatever method."""
        self._count_try()
        super().send_userauth_failure(partial_success)

    def _count_try(self) -> None:
        self._tries += 1
        if self._tries > MAX_TRIES:
            self._refused(Reason.TOO_MANY_TRIES, self.spawn)
            raise asyncssh.DisconnectError(
                asyncssh.DISC_NO_MORE_AUTH_METHODS_AVAILABLE, "Too many logins tried"
            )

    def _refused(self, reason: Reason, user_name: str, detail: str = "") -> None:
        self.gateway.metrics.logins.labels(reason.value).inc()
        audit(
            "login-refused",
            reason=reason.value,
            detail=detail,
            user_name=user_name,
            source=self.source,
            serial=self.certificate.serial if self.certificate else None,
        )

    # Both forwards

    async def open_notebook(self, end: SocketEnd) -> bool:
        """Open a channel to the notebook for a visitor.

        False when the job does not answer in OPEN_TIMEOUT_S. A channel that is confirmed
        later is closed at once; a job that leaves many unanswered is cut off. Raises
        asyncssh.ChannelOpenError when the job refuses or the connection ends.
        """
        if self._unconfirmed >= MAX_UNCONFIRMED:
            self.end(Reason.STALLED)
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, "too many unanswered")
        host, port = end.peer
        factory: Any = functools.partial(ChannelEnd, end, self)
        opening = asyncio.ensure_future(
            self.create_connection(factory, *policy.NOTEBOOK, host, port, window=CHANNEL_WINDOW)
        )
        self._unconfirmed += 1
        opening.add_done_callback(self._answered)
        done, _ = await asyncio.wait({opening}, timeout=OPEN_TIMEOUT_S)
        if not done:
            return False
        await opening
        return True

    def _answered(self, opening: "asyncio.Future[Any]") -> None:
        self._unconfirmed -= 1
        if not opening.cancelled():
            opening.exception()  # seen, also where nobody waits any more

    def open_hub(self) -> tuple[asyncssh.SSHTCPChannel[bytes], Any]:
        """Answer a job's request for the hub; raises asyncssh.ChannelOpenError above the cap."""
        if len(self._channels) >= MAX_CHANNELS:  # private name of asyncssh
            self.refuse_request(Reason.CHANNELS, *policy.HUB)
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_RESOURCE_SHORTAGE, "too many channels")
        return self.create_tcp_channel(window=HUB_CHANNEL_WINDOW), self._connect_hub()

    async def _connect_hub(self) -> ChannelEnd:
        channel_end = await connect_hub(self, *self.gateway.hub_address)
        if self.is_gone:
            channel_end.connection_lost(None)
        return channel_end

    def refuse_request(self, reason: Reason, host: str, port: int) -> None:
        """Tell of a request that no rule allows; end a connection that goes on asking."""
        self.gateway.metrics.refused.labels(reason.value).inc()
        audit("request-refused", reason=reason.value, spawn=self.spawn, host=host, port=port)
        self._refused_requests += 1
        if self._refused_requests >= MAX_REFUSED:
            self.end(Reason.TOO_MANY_REQUESTS)

    # Bounded buffers

    def attach(self, end: SocketEnd) -> None:
        """See forwards.Link."""
        self._ends.add(end)

    def detach(self, end: SocketEnd) -> None:
        """See forwards.Link."""
        self._ends.discard(end)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Bound the write buffer."""
        self._tcp = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        self._tcp.set_write_buffer_limits(high=BUFFER_HIGH, low=BUFFER_LOW)
        super().connection_made(transport)

    def data_received(self, data: bytes, datatype: int | None = None) -> None:
        """Cut off a peer that asks and asks and never reads the answers."""
        super().data_received(data, datatype)
        if self._tcp is not None and self._tcp.get_write_buffer_size() > BUFFER_CUT:
            self.end(Reason.STALLED)

    def pause_writing(self) -> None:
        """Stop reading what would be written here (asyncssh does nothing)."""
        self._set_congested(True)

    def resume_writing(self) -> None:
        """Read again."""
        self._set_congested(False)

    def _set_congested(self, congested: bool) -> None:
        self.congested = congested
        for end in tuple(self._ends):
            end.set_congested(congested)

    # End

    def internal_error(self, exc_info: Any = None, error_logger: Any = None) -> None:
        """Tell of an exception that nobody caught, ours or asyncssh's on odd input."""
        error = (exc_info or sys.exc_info())[1]
        log.error("%s: connection ended by %r", self.source, error)
        log.debug("trace", exc_info=error)
        super().internal_error(exc_info, error_logger)

    def end(self, reason: Reason, detail: str = "") -> None:
        """End the connection at once, telling the client why."""
        if self.is_gone:
            return
        self.reason = self.reason or reason
        self.is_gone = True
        self.disconnect(asyncssh.DISC_BY_APPLICATION, policy.farewell(reason, detail))
