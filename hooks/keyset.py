"""Which random Secrets an installation needs, and what is missing of them. No I/O.

Invariants: what exists is never changed, with one exception: the gateway's host certificate,
which is signed again when half of its two years is over or when it no longer fits. Whatever
cannot be completed raises KeyBroken naming the Secret, the key and the fix; no message holds key
material.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import asyncssh

from jupyterhub_comet.errors import KeyBroken
from jupyterhub_comet.ssh.certificate import issue_host_certificate
from jupyterhub_comet.ssh.keys import certificate_end, generate_private_key, parse_trust_set

HOST_CERTIFICATE_LIFE = timedelta(days=730)

# munge takes 32 to 1024 bytes; more are no better.
_MUNGE_KEY_BYTES = 128

# Secret's name -> key -> content, as bytes: what Kubernetes has, or is to get.
Contents = dict[str, dict[str, bytes]]


@dataclass(frozen=True)
class Names:
    """Names of the Secrets, and what goes into certificates and host lines.

    Attributes:
        tunnel_ca, host_ca, tunnelbot, login, hub: Secrets.
        demo: Secret of the demo cluster; empty: no demo.
        demo_login_host: host pattern of the demo login node's known_hosts line.
        host_key_alias: the only principal of the host certificate.
        key_type: of keys made new, ``ed25519`` or ``ecdsa-p256``.
        check_only: Secrets that somebody else fills.
    """

    tunnel_ca: str = "comet-tunnel-ca"
    host_ca: str = "comet-host-ca"
    tunnelbot: str = "tunnelbot"
    login: str = "comet-login"
    hub: str = "comet-hub"
    demo: str = ""
    demo_login_host: str = ""
    host_key_alias: str = "comet-tunnelbot"
    key_type: str = "ed25519"
    check_only: frozenset[str] = frozenset()

    def in_order(self) -> tuple[str, ...]:
        """All Secrets, each after those that it holds copies or signatures of.

        Written in this order, a hook that dies half-way leaves nothing that contradicts itself.
        """
        names = (self.host_ca, self.tunnel_ca, self.tunnelbot)
        demo = (self.demo,) if self.demo else ()
        return (*names, *demo, self.login, self.hub)


def missing(found: Mapping[str, Mapping[str, bytes]], names: Names, now: datetime) -> Contents:
    """Say what must be written, Secret by Secret in writing order; empty when all is well.

    Args:
        found: the Secrets as they are; one that does not exist may be absent.
        names: what they are called.
        now: the time, with its zone.

    Raises:
        KeyBroken: something is there but unusable, or missing in a Secret of somebody else's.
    """
    return _Completion(found, names, now).run()


@dataclass
class _Completion:
    """One pass over all Secrets; remembers what it made."""

    found: Mapping[str, Mapping[str, bytes]]
    names: Names
    now: datetime
    made: Contents = field(default_factory=dict)

    def run(self) -> Contents:
        names = self.names
        host_ca = self._pair(names.host_ca, "ca", "ca.pub")
        tunnel_ca = self._pair(names.tunnel_ca, "ca", "ca.pub")
        self._copy_of(names.tunnel_ca, "host-ca.pub", host_ca)
        self._gateway(host_ca, tunnel_ca)
        if names.demo:
            self._demo()
        self._pair(names.login, "ca", "ca.pub")
        self._hub()
        self._refuse_to_fill_foreign_secrets()
        return {name: self.made[name] for name in names.in_order() if name in self.made}

    def _gateway(self, host_ca: asyncssh.SSHKey, tunnel_ca: asyncssh.SSHKey) -> None:
        """Complete what tunnelbot mounts."""
        secret = self.names.tunnelbot
        host_key = self._private(secret, "ssh_host_key")
        old = self._get(secret, "ssh_host_key-cert.pub")
        if old is None or not self._still_good(old, host_key, host_ca):
            line = issue_host_certificate(
                host_ca,
                host_key,
                principals=[self.names.host_key_alias],
                valid_before=self.now + HOST_CERTIFICATE_LIFE,
                serial=int(self.now.timestamp()),
            )
            self._put(secret, "ssh_host_key-cert.pub", line.encode() + b"\n")
        self._copy_of(secret, "trusted-user-cas", tunnel_ca)

    def _still_good(self, line: bytes, key: asyncssh.SSHKey, ca: asyncssh.SSHKey) -> bool:
        """Say whether a host certificate fits key, CA and name, for at least half its life."""
        try:
            certificate = asyncssh.import_certificate(line)
        except asyncssh.KeyImportError:
            return False
        if not isinstance(certificate, asyncssh.public_key.SSHOpenSSHCertificate):
            return False
        return (
            certificate.key is not None
            and certificate.key.public_data == key.public_data
            and certificate.signing_key.public_data == ca.public_data
            and list(certificate.principals) == [self.names.host_key_alias]
            and certificate_end(certificate) - self.now > HOST_CERTIFICATE_LIFE / 2
        )

    def _demo(self) -> None:
        """Complete the demo cluster's Secret, and the line that pins its login node's key."""
        demo = self.names.demo
        self._ensure(demo, "munge.key", lambda: secrets.token_bytes(_MUNGE_KEY_BYTES))
        self._ensure(demo, "slurmdbd-password", lambda: secrets.token_hex(24).encode())
        key = self._pair(demo, "ssh_host_ed25519_key", "ssh_host_ed25519_key.pub", "ed25519")
        public = _public_line(key)
        line = f"{self.names.demo_login_host} ".encode() + public
        known = self._ensure(self.names.login, "known_hosts", lambda: line)
        if public.strip() not in known:
            raise KeyBroken(
                f"Secret {self.names.login}: known_hosts does not hold the host key in Secret "
                f"{demo}, so the hub would refuse the login node; remove the key known_hosts to "
                "have it made again"
            )

    def _hub(self) -> None:
        """Complete z2jh's existingSecret: text without a newline, since z2jh strips none."""
        hub = self.names.hub
        for key in (
            "hub.config.JupyterHub.cookie_secret",
            "hub.config.CryptKeeper.keys",
            "hub.services.tunnelbot.apiToken",
        ):
            self._ensure(hub, key, lambda: secrets.token_hex(32).encode())

    def _pair(self, secret: str, private: str, public: str, key_type: str = "") -> asyncssh.SSHKey:
        """The private key of a Secret that also holds its public half; made where missing."""
        if self._get(secret, private) is None and self._get(secret, public) is not None:
            raise KeyBroken(
                f"Secret {secret} has {public} but not {private}: put {private} back, or delete "
                f"the Secret to have both made new (what the old key signed is then refused)"
            )
        key = self._private(secret, private, key_type)
        there = self._get(secret, public)
        if there is None:
            self._put(secret, public, _public_line(key))
        elif key.public_data not in self._trusted(secret, public, there):
            raise KeyBroken(
                f"Secret {secret}: {public} is not the public half of {private}; remove the key "
                f"{public} to have it made again"
            )
        return key

    def _copy_of(self, secret: str, name: str, ca: asyncssh.SSHKey) -> None:
        """Hold a CA's public key under another name, perhaps beside others."""
        there = self._get(secret, name)
        if there is None:
            self._put(secret, name, _public_line(ca))
        elif ca.public_data not in self._trusted(secret, name, there):
            raise KeyBroken(
                f"Secret {secret}: {name} does not hold the CA that signs now, so its "
                f"certificates would be refused; add that CA's ca.pub as a line, or remove the "
                f"key {name} to have it made again"
            )

    def _private(self, secret: str, name: str, key_type: str = "") -> asyncssh.SSHKey:
        def make() -> bytes:
            made = generate_private_key(key_type or self.names.key_type)
            exported: bytes = made.export_private_key("openssh")
            return exported

        text = self._ensure(secret, name, make)
        try:
            return asyncssh.import_private_key(text)
        except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as exc:
            raise KeyBroken(f"Secret {secret}: {name} is no usable private key ({exc})") from exc

    def _trusted(self, secret: str, name: str, text: bytes) -> frozenset[bytes]:
        source = f"Secret {secret}: {name}"
        try:
            return parse_trust_set(text.decode(), source).keys
        except UnicodeDecodeError as exc:
            raise KeyBroken(f"{source} is not text") from exc

    def _ensure(self, secret: str, name: str, make: Callable[[], bytes]) -> bytes:
        there = self._get(secret, name)
        if there is not None:
            return there
        made = make()
        self._put(secret, name, made)
        return made

    def _get(self, secret: str, name: str) -> bytes | None:
        content = self.made.get(secret, {}).get(name) or self.found.get(secret, {}).get(name)
        return content or None  # an empty value is no key: made again

    def _put(self, secret: str, name: str, content: bytes) -> None:
        self.made.setdefault(secret, {})[name] = content

    def _refuse_to_fill_foreign_secrets(self) -> None:
        lacking = [
            f"Secret {name} lacks {', '.join(sorted(self.made[name]))}"
            for name in self.names.in_order()
            if name in self.names.check_only and name in self.made
        ]
        if lacking:
            raise KeyBroken(
                "; ".join(lacking) + ". Put them there, or set create: true for it under "
                "secrets in the values to have them made"
            )


def _public_line(key: asyncssh.SSHKey) -> bytes:
    """A public key as one line with its end, without a comment."""
    exported: bytes = key.export_public_key("openssh")
    return exported.strip() + b"\n"


def utc_now() -> datetime:
    """The time with its zone."""
    return datetime.now(tz=UTC)
