"""Issue the three kinds of certificate: tunnel (job -> tunnelbot), login (hub -> login node)
and host (tunnelbot to the jobs).

Each carries exactly the principals and extensions it needs: everything that OpenSSH would
grant by default (pty, agent, X11, user rc) is off.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import asyncssh

from jupyterhub_comet.errors import KeyBroken, Refused
from jupyterhub_comet.ssh.keys import generate_private_key
from jupyterhub_comet.ssh.principal import is_spawn_id

# The second wall; the first is the hub's registry. A starter renews well before the end.
MAX_TUNNEL_LIFETIME = timedelta(days=8)

# Clocks of hub, tunnelbot and login nodes may differ a little.
BACKDATE = timedelta(seconds=60)

_KEY_ID_LENGTH = 200
_NOT_FOR_LOGS = re.compile(r"[^A-Za-z0-9._@:/-]")

# useradd's own rule (NAME_REGEX of Debian and RHEL) with capitals, which some sites have.
_ACCOUNT = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}")
# root is everybody; slurm and munge can act as everybody in Slurm.
_NEVER = frozenset({"root", "toor", "slurm", "munge"})


@dataclass(frozen=True)
class IssuedCertificate:
    """A key pair made for one server: what its job carries.

    Attributes:
        private_key: OpenSSH PEM, without a passphrase.
        certificate: one line, ``ssh-ed25519-cert-v01@openssh.com AAAA...``.
        valid_before: when it runs out; not later than MAX_TUNNEL_LIFETIME from its start.
    """

    private_key: str
    certificate: str
    valid_before: datetime


def issue_tunnel_certificate(
    ca: asyncssh.SSHKey,
    *,
    spawn: str,
    key_id: str,
    serial: int,
    valid_after: datetime,
    valid_before: datetime,
    key_type: str = "ed25519",
) -> IssuedCertificate:
    """Make a new key and sign it for one spawn; the only extension is port forwarding.

    Args:
        ca: private half of the tunnel CA.
        spawn: the spawn id, the only principal.
        key_id: who and what it is for, for logs only; cut and escaped here.
        serial: the spawn's counter.
        valid_after, valid_before: with a time zone. An end beyond MAX_TUNNEL_LIFETIME is cut.
        key_type: ``ed25519`` or ``ecdsa-p256``.

    Raises KeyBroken when the arguments make no certificate that tunnelbot would accept.
    """
    if not is_spawn_id(spawn):
        # An empty or foreign principal could open other servers' tunnels: never sign one.
        raise KeyBroken("a tunnel certificate needs a spawn id as its principal")
    valid_before = min(valid_before, valid_after + MAX_TUNNEL_LIFETIME)
    key = generate_private_key(key_type)
    certificate = _sign_user(
        ca,
        key,
        principal=spawn,
        key_id=key_id,
        serial=serial,
        valid_after=valid_after,
        valid_before=valid_before,
        permit_port_forwarding=True,
    )
    return IssuedCertificate(
        private_key=key.export_private_key("openssh").decode("ascii"),
        certificate=_line(certificate),
        valid_before=valid_before,
    )


def issue_login_certificate(
    ca: asyncssh.SSHKey,
    *,
    account: str,
    lifetime_s: int = 300,
    source_addresses: Sequence[str] = (),
    force_command: str = "",
) -> tuple[asyncssh.SSHKey, asyncssh.SSHCertificate]:
    """Make a new key and sign it for commands as ``account`` on a login node.

    Args:
        ca: private half of the login CA.
        account: the cluster account, the only principal.
        lifetime_s: seconds from now; the connection may live longer.
        source_addresses: addresses or networks that the hub comes from; empty: any.
        force_command: a site's wrapper; empty: none.

    Neither forwarding nor a pty is permitted. Raises Refused for root, for accounts that
    control Slurm and for names that Slurm could not have; KeyBroken for a bad address.
    """
    if _ACCOUNT.fullmatch(account) is None:
        raise Refused("This is no name that an account on the cluster could have.")
    if account.lower() in _NEVER:
        raise Refused(f"The account {account} is the system's own and cannot be used.")
    now = datetime.now(tz=UTC)
    key = generate_private_key("ed25519")
    certificate = _sign_user(
        ca,
        key,
        principal=account,
        key_id=f"login/{account}",
        serial=0,
        valid_after=now - BACKDATE,
        valid_before=now + timedelta(seconds=lifetime_s),
        source_addresses=source_addresses,
        force_command=force_command,
    )
    return key, certificate


def issue_host_certificate(
    ca: asyncssh.SSHKey,
    public_key: asyncssh.SSHKey,
    *,
    principals: Sequence[str],
    valid_before: datetime,
    serial: int,
) -> str:
    """Sign tunnelbot's host key for the names in ``principals``; returns one line.

    Raises KeyBroken without a principal (it would be valid for every host) or with a bad time.
    """
    if not principals or not all(principals):
        raise KeyBroken("a host certificate needs the host's names as principals")
    try:
        certificate = ca.generate_host_certificate(
            public_key,
            "tunnelbot",
            serial=serial,
            principals=list(principals),
            valid_after=int((datetime.now(tz=UTC) - BACKDATE).timestamp()),
            valid_before=int(valid_before.timestamp()),
        )
    except (ValueError, asyncssh.KeyGenerationError) as exc:
        raise KeyBroken(f"the host certificate cannot be signed: {exc}") from exc
    return _line(certificate)


def _sign_user(
    ca: asyncssh.SSHKey,
    key: asyncssh.SSHKey,
    *,
    principal: str,
    key_id: str,
    serial: int,
    valid_after: datetime,
    valid_before: datetime,
    permit_port_forwarding: bool = False,
    source_addresses: Sequence[str] = (),
    force_command: str = "",
) -> asyncssh.SSHCertificate:
    try:
        return ca.generate_user_certificate(
            key,
            _NOT_FOR_LOGS.sub("_", key_id)[:_KEY_ID_LENGTH],
            serial=serial,
            principals=[principal],  # a list: asyncssh splits a string at commas
            valid_after=int(valid_after.timestamp()),
            valid_before=int(valid_before.timestamp()),
            force_command=force_command or None,
            source_address=list(source_addresses) or None,
            permit_x11_forwarding=False,
            permit_agent_forwarding=False,
            permit_port_forwarding=permit_port_forwarding,
            permit_pty=False,
            permit_user_rc=False,
            comment=principal,
        )
    except (ValueError, asyncssh.KeyGenerationError) as exc:
        raise KeyBroken(f"the certificate for {principal} cannot be signed: {exc}") from exc


def _line(certificate: asyncssh.SSHCertificate) -> str:
    return certificate.export_certificate("openssh").decode("ascii").strip()
