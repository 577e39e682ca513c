"""Keys and certificates of the lab, made by ssh-keygen: another program than the one tested."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from .waiting import LabBroken


def make_key(path: Path, comment: str = "") -> Path:
    """An ed25519 pair ``path`` and ``path.pub``; the public half's path."""
    _keygen(["-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)])
    return path.with_name(path.name + ".pub")


class CertificateAuthority:
    """A CA in the folder layout of the mounted Secrets: ``ca`` and ``ca.pub``."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder = folder
        self.key = folder / "ca"
        self.public = make_key(self.key, folder.name)

    @property
    def public_line(self) -> str:
        """The public key, as one line without its end."""
        return self.public.read_text().strip()

    def sign_user(
        self,
        public_key: Path,
        principals: Sequence[str],
        *,
        validity: str = "-1m:+5m",
        options: Sequence[str] = ("clear",),
    ) -> Path:
        """A user certificate beside ``public_key``; its path.

        Args:
            public_key: file ``NAME.pub``; the certificate is ``NAME-cert.pub``.
            principals: accounts it admits to; none at all if empty.
            validity: ssh-keygen's -V.
            options: ssh-keygen's -O; ``clear`` permits nothing but running commands.
        """
        argv = ["-q", "-s", str(self.key), "-I", "lab", "-V", validity]
        argv += [word for option in options for word in ("-O", option)]
        argv += ["-n", ",".join(principals)] if principals else []
        _keygen([*argv, str(public_key)])
        return public_key.with_name(public_key.name.removesuffix(".pub") + "-cert.pub")

    def sign_host(self, public_key: Path, principals: Sequence[str]) -> Path:
        """A host certificate beside ``public_key``, valid for two years; its path."""
        argv = ["-q", "-s", str(self.key), "-I", "lab-host", "-h", "-V", "-1m:+104w"]
        _keygen([*argv, "-n", ",".join(principals), str(public_key)])
        return public_key.with_name(public_key.name.removesuffix(".pub") + "-cert.pub")


def _keygen(arguments: Sequence[str]) -> None:
    done = subprocess.run(
        ["ssh-keygen", *arguments],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise LabBroken(f"ssh-keygen {' '.join(arguments)}: {done.stderr.strip()}")
