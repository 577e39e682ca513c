"""What a job's SSH connection may do: asyncssh's options and its questions, answered.

Whatever is not answered here is refused by asyncssh's defaults: sessions, agent, X11, tun,
UNIX sockets, every other kind of login.
"""

from typing import Any, cast

import asyncssh
from asyncssh.kex import get_kex_algs

from jupyterhub_comet.ssh.keys import GatewayKeys
from jupyterhub_comet.tunnelbot import policy
from jupyterhub_comet.tunnelbot.connection import HANDSHAKE_S, JobConnection
from jupyterhub_comet.tunnelbot.hub import ASK_TIMEOUT_S
from jupyterhub_comet.tunnelbot.policy import Reason

# SSH takes the client's first choice. AES-GCM alone: twice as fast as OpenSSH's favourite
# chacha20, and immune to Terrapin. No finite-field exchange: it costs us ten times the CPU.
_CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")
_EXCHANGES = (
    "mlkem768x25519-sha256",
    "curve25519-sha256",
    "curve25519-sha256@libssh.org",
    "ecdh-sha2-nistp256",  # FIPS nodes have these
    "ecdh-sha2-nistp384",
    "ecdh-sha2-nistp521",
)
_SIGNATURES = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "rsa-sha2-512",
    "rsa-sha2-256",
)


def make_options(keys: GatewayKeys) -> asyncssh.SSHServerConnectionOptions:
    """Return asyncssh's options for new connections: everything off that is not needed."""
    available = {name.decode("ascii") for name in get_kex_algs()}
    return asyncssh.SSHServerConnectionOptions(
        config=None,
        server_factory=JobServer,
        server_host_keys=[(keys.host_key, keys.host_certificate)],
        server_version="tunnelbot",
        kex_algs=[name for name in _EXCHANGES if name in available],
        encryption_algs=list(_CIPHERS),
        compression_algs=None,  # a few bytes could unpack to gigabytes
        signature_algs=list(_SIGNATURES),
        public_key_auth=True,
        password_auth=False,
        kbdint_auth=False,
        host_based_auth=False,
        gss_host=None,
        allow_pty=False,
        agent_forwarding=False,
        x11_forwarding=False,
        line_editor=False,
        allow_scp=False,
        sftp_factory=None,
        # HANDSHAKE_S is kept by the accept loop; this is the end of the wait for the hub too.
        login_timeout=HANDSHAKE_S + ASK_TIMEOUT_S + 5,
        keepalive_interval=15,
        keepalive_count_max=3,  # a silent peer is gone after 60 s
        tcp_keepalive=True,
    )


class JobServer(asyncssh.SSHServer):
    """The answers for one connection."""

    def __init__(self) -> None:
        self._connection: JobConnection | None = None

    @property
    def connection(self) -> JobConnection:
        assert self._connection is not None  # noqa: S101 - asyncssh calls connection_made first
        return self._connection

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = cast("JobConnection", conn)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self.connection.is_gone = True
        self.connection.settled.set()
        self.connection.gateway.lost(self.connection)

    def begin_auth(self, username: str) -> bool:  # noqa: ARG002
        return True  # False would mean: no login needed

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_ca_key(self, username: str, key: asyncssh.SSHKey) -> bool:  # noqa: ARG002
        return self.connection.gateway.keys.trusted.trusts(key)

    def auth_completed(self) -> None:
        connection = self.connection
        reason: Reason | None = Reason.NOT_A_CERTIFICATE  # asyncssh went another way than ours
        if connection.admitted is not None:
            reason = connection.gateway.connected(connection, connection.admitted)
        if reason is not None:
            connection.end(reason)

    def server_requested(self, listen_host: str, listen_port: int) -> Any:
        connection = self.connection
        if not policy.may_listen(listen_host, listen_port):
            connection.refuse_request(Reason.LISTEN, listen_host, listen_port)
            return False
        if not connection.gateway.serving(connection):
            return False
        return _Serving(connection)

    def connection_requested(
        self,
        dest_host: str,
        dest_port: int,
        orig_host: str,  # noqa: ARG002
        orig_port: int,  # noqa: ARG002
    ) -> Any:
        if not policy.may_connect(dest_host, dest_port):
            self.connection.refuse_request(Reason.DESTINATION, dest_host, dest_port)
            raise asyncssh.ChannelOpenError(
                asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, "only hub:8081 is reachable from here"
            )
        return self.connection.open_hub()


class _Serving(asyncssh.SSHListener):
    """What asyncssh keeps for an accepted ``-R``; the port itself is the gateway's."""

    def __init__(self, connection: JobConnection) -> None:
        super().__init__()
        self._connection = connection

    def close(self) -> None:
        self._connection.gateway.not_serving(self._connection)

    async def wait_closed(self) -> None:
        pass
