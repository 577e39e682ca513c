"""Log in on one of a cluster's login hosts.

Each connection has a key and a certificate of its own, signed by the login CA for one account
and five minutes. Host keys are always pinned. A host that was down is tried last for a while.
asyncssh's errors end here: what comes out is ClusterUnreachable with every host and its cause.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

import asyncssh

from jupyterhub_comet.errors import ClusterUnreachable, KeyBroken
from jupyterhub_comet.settings import LoginSettings
from jupyterhub_comet.ssh.certificate import issue_login_certificate
from jupyterhub_comet.ssh.keys import load_private_key

log = logging.getLogger(__name__)

_SSH_PORT = 22
_DOWN_S = 60.0
# A peer that answers no probe for three times this long is gone: firewalls and
# LoadBalancers forget idle flows without telling either side.
_PROBE_S = 15


class _Refused(Exception):
    """One host did not let us in; the text is a clause that says why."""


class LoginHosts:
    """The login hosts of one cluster.

    Args:
        login: hosts, pinned keys and limits.
        ca_path: private half of the login CA; read at each login, so that a new one counts.
    """

    def __init__(self, login: LoginSettings, ca_path: Path) -> None:
        self._login = login
        self._ca_path = ca_path
        self._down_until: dict[str, float] = {}

    async def connect(self, account: str) -> tuple[str, asyncssh.SSHClientConnection]:
        """A new connection as ``account`` to the first host that takes it, and its name.

        Raises:
            ClusterUnreachable: none did; the message tells each host's cause.
            Refused: the account may never log in.
            KeyBroken: the login CA or the pinned keys cannot be used.
        """
        key, certificate = issue_login_certificate(
            load_private_key(self._ca_path),
            account=account,
            source_addresses=self._login.source_addresses,
            force_command=self._login.force_command,
        )
        known_hosts = self._known_hosts()
        causes = []
        for host in self._in_order():
            try:
                connection = await self._connect_to(host, account, (key, certificate), known_hosts)
            except _Refused as exc:
                log.warning("login host %s as %s: %s", host, account, exc)
                causes.append(f"{host} {exc}")
            else:
                self._down_until.pop(host, None)
                return host, connection
        raise ClusterUnreachable(f"No login node lets {account} in: {'; '.join(causes)}.")

    def _in_order(self) -> list[str]:
        now = time.monotonic()
        return sorted(self._login.hosts, key=lambda host: self._down_until.get(host, 0) > now)

    def _known_hosts(self) -> asyncssh.SSHKnownHosts:
        source = self._login.known_hosts_file or "knownHosts"
        try:
            text = self._login.known_hosts or Path(source).read_text()
            return asyncssh.import_known_hosts(text)
        except OSError as exc:
            raise KeyBroken(f"{source} cannot be read: {exc.strerror}") from exc
        except ValueError as exc:
            raise KeyBroken(f"{source} has a line that is no known_hosts line: {exc}") from exc

    async def _connect_to(
        self,
        host: str,
        account: str,
        credentials: tuple[asyncssh.SSHKey, asyncssh.SSHCertificate],
        known_hosts: asyncssh.SSHKnownHosts,
    ) -> asyncssh.SSHClientConnection:
        name, port = split_host(host)
        limit_s = self._login.connect_timeout_seconds
        try:
            return await asyncssh.connect(
                name,
                port,
                username=account,
                client_keys=[credentials],
                known_hosts=known_hosts,
                # Only what is given here: no agent, no files of this machine's user.
                agent_path=None,
                config=None,
                preferred_auth="publickey",
                connect_timeout=limit_s,
                keepalive_interval=_PROBE_S,
            )
        except asyncssh.HostKeyNotVerifiable as exc:
            log.error("login host %s: ITS HOST KEY IS NOT THE PINNED ONE: %s", host, exc.reason)
            raise _Refused(
                "shows a host key that is not the pinned one (changed, or somebody in between); "
                "compare it with knownHosts"
            ) from exc
        except asyncssh.PermissionDenied as exc:
            raise _Refused(
                f"refuses the certificate for {account} (is there such an account, and does "
                "TrustedUserCAKeys hold the login CA?)"
            ) from exc
        except TimeoutError as exc:
            raise self._is_down(host, f"does not answer within {limit_s:g} s") from exc
        except asyncssh.Error as exc:
            raise self._is_down(host, f"breaks the connection: {exc.reason}") from exc
        except OSError as exc:
            raise self._is_down(host, f"does not answer: {exc.strerror or exc}") from exc

    def _is_down(self, host: str, clause: str) -> _Refused:
        self._down_until[host] = time.monotonic() + _DOWN_S
        return _Refused(clause)


def split_host(host: str) -> tuple[str, int]:
    """Name and port of ``host``, ``host:port``, ``[v6]`` or ``[v6]:port``; port 22 by default."""
    name, colon, port = host.rpartition(":")
    if colon and port.isdigit() and (":" not in name or name.endswith("]")):
        return name.strip("[]"), int(port)
    return host.strip("[]"), _SSH_PORT
