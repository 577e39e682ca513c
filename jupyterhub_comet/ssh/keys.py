"""Keys, certificates and trust sets: read from files, made new, read again when they change.

Invariants: whatever cannot be used raises KeyBroken, whose message names the file; a broken
new file never replaces a good key that is in use; no message holds key material.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Generic, TypeVar

import asyncssh

from jupyterhub_comet.errors import KeyBroken

T = TypeVar("T")

# Setting -> SSH algorithm. FIPS nodes refuse ed25519, hence the second.
_ALGORITHMS = {"ed25519": "ssh-ed25519", "ecdsa-p256": "ecdsa-sha2-nistp256"}


def generate_private_key(key_type: str) -> asyncssh.SSHKey:
    """Return a new private key of type ``ed25519`` or ``ecdsa-p256``."""
    try:
        algorithm = _ALGORITHMS[key_type]
    except KeyError:
        raise KeyBroken(
            f"key type {key_type!r} is not known; use one of {', '.join(_ALGORITHMS)}"
        ) from None
    return asyncssh.generate_private_key(algorithm)


def _read(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as exc:
        raise KeyBroken(f"{path}: {exc.strerror or exc}") from exc
    except UnicodeDecodeError as exc:
        raise KeyBroken(f"{path}: is not text") from exc
    if not text.strip():
        raise KeyBroken(f"{path}: is empty")
    return text


def load_private_key(path: Path) -> asyncssh.SSHKey:
    """Read one private key without a passphrase; raises KeyBroken."""
    try:
        return asyncssh.import_private_key(_read(path))
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as exc:
        raise KeyBroken(f"{path}: not a private key that can be used ({exc})") from exc


def load_public_key(path: Path) -> asyncssh.SSHKey:
    """Read one public key in OpenSSH's form; raises KeyBroken."""
    try:
        return asyncssh.import_public_key(_read(path))
    except asyncssh.KeyImportError as exc:
        raise KeyBroken(f"{path}: not a public key ({exc})") from exc


def load_certificate(path: Path) -> asyncssh.SSHCertificate:
    """Read one OpenSSH certificate; raises KeyBroken."""
    try:
        return asyncssh.import_certificate(_read(path))
    except asyncssh.KeyImportError as exc:
        raise KeyBroken(f"{path}: not a certificate ({exc})") from exc


@dataclass(frozen=True)
class TrustSet:
    """The public keys of the CAs whose certificates are accepted.

    Compared by the key itself, never by a name or comment.
    """

    keys: frozenset[bytes]
    fingerprints: tuple[str, ...]

    def trusts(self, ca: asyncssh.SSHKey) -> bool:
        """Say whether ``ca`` is one of the trusted keys."""
        return ca.public_data in self.keys


def parse_trust_set(text: str, source: str) -> TrustSet:
    """Parse one public key a line; blank lines and ``#`` comments are skipped.

    Plain keys only: a line with options (``cert-authority``, ``principals=``) is refused,
    because options can loosen what is checked. Raises KeyBroken naming source and line.
    """
    found: dict[bytes, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            key = asyncssh.import_public_key(line)
        except asyncssh.KeyImportError as exc:
            raise KeyBroken(f"{source}: line {number} is not a public key ({exc})") from exc
        found[key.public_data] = key.get_fingerprint()
    if not found:
        raise KeyBroken(f"{source}: holds no key, so nobody could log in")
    return TrustSet(frozenset(found), tuple(found.values()))


def load_trust_set(path: Path) -> TrustSet:
    """Read a trust set; raises KeyBroken."""
    return parse_trust_set(_read(path), str(path))


@dataclass(frozen=True)
class GatewayKeys:
    """What tunnelbot proves itself with, and whom it lets in."""

    host_key: asyncssh.SSHKey
    host_certificate: asyncssh.SSHCertificate
    host_certificate_ends: datetime
    trusted: TrustSet


GATEWAY_FILES = ("ssh_host_key", "ssh_host_key-cert.pub", "trusted-user-cas")


def load_gateway_keys(folder: Path) -> GatewayKeys:
    """Read tunnelbot's mounted Secret (GATEWAY_FILES) and check that its parts fit together.

    Raises KeyBroken for a part that is missing or broken, a certificate of another key, a
    user certificate, or one that has run out.
    """
    key_path, certificate_path, trusted_path = (folder / name for name in GATEWAY_FILES)
    key = load_private_key(key_path)
    certificate = load_certificate(certificate_path)
    if certificate.key is None or certificate.key.public_data != key.public_data:
        raise KeyBroken(f"{certificate_path}: is not the certificate of {key_path}")
    if not isinstance(certificate, asyncssh.public_key.SSHOpenSSHCertificate):
        raise KeyBroken(f"{certificate_path}: is not an OpenSSH certificate")
    try:
        certificate.validate(asyncssh.public_key.CERT_TYPE_HOST, None)
    except ValueError as exc:
        raise KeyBroken(f"{certificate_path}: {exc}") from exc
    return GatewayKeys(key, certificate, certificate_end(certificate), load_trust_set(trusted_path))


def certificate_end(certificate: asyncssh.SSHCertificate) -> datetime:
    """Return when an OpenSSH certificate runs out (the far future if it never does)."""
    # asyncssh has no public attribute for it; tests/unit/test_keys.py holds the private one.
    seconds = int(certificate._valid_before)  # type: ignore[attr-defined]
    return datetime.fromtimestamp(min(seconds, 253402300799), tz=UTC)  # datetime ends in 9999


class Reloaded(Generic[T]):
    """A value made from files, made again when one of the files changes.

    Args:
        paths: the files to watch (Kubernetes swaps a symlink: what it points to is compared).
        load: makes the value from the files; raises KeyBroken.

    The first load raises KeyBroken. After that a broken change keeps the old value and is
    told in ``problem`` until the files are good again.
    """

    def __init__(self, paths: Sequence[Path], load: Callable[[], T]) -> None:
        self._paths = tuple(paths)
        self._load = load
        self._seen = self._stamp()
        self.current: T = load()
        self.problem: str | None = None

    def _stamp(self) -> tuple[tuple[int, int, int] | None, ...]:
        stamps: list[tuple[int, int, int] | None] = []
        for path in self._paths:
            try:
                stat = path.stat()
            except OSError:
                stamps.append(None)
            else:
                stamps.append((stat.st_ino, stat.st_mtime_ns, stat.st_size))
        return tuple(stamps)

    def refresh(self) -> bool:
        """Look at the files; return True if ``current`` is a new value. Never raises KeyBroken."""
        # Taken before reading: a swap in the middle is then seen again at the next look.
        stamp = self._stamp()
        if stamp == self._seen:
            return False
        self._seen = stamp
        try:
            self.current = self._load()
        except KeyBroken as exc:
            self.problem = str(exc)
            return False
        self.problem = None
        return True
