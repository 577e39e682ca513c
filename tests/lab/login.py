"""The login node: a real sshd that admits certificates of the login CA and nothing else."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from .folder import Lab
from .keys import CertificateAuthority, make_key
from .ports import free_port
from .probe import answers
from .processes import Process, descendants
from .shims import Shims
from .users import USERS

_CONFIG = """\
ListenAddress 127.0.0.1:{port}
HostKey {host_key}
PidFile none
TrustedUserCAKeys {trusted}
AuthorizedKeysFile none
AuthenticationMethods publickey
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin no
AllowUsers {users}
UsePAM no
UseDNS no
PrintMotd no
PrintLastLog no
MaxStartups 100
LogLevel VERBOSE
"""


class LoginNode:
    """sshd on a loopback port of its own.

    Args:
        lab: the lab's folder.
        ca: the login CA.
        shims: Slurm's commands as users find them here.
        name: tells several login nodes apart.
    """

    def __init__(
        self, lab: Lab, ca: CertificateAuthority, shims: Shims, name: str = "login"
    ) -> None:
        self.ca = ca
        self.shims = shims
        self.port = free_port()
        self._folder = lab.folder(name, 0o700)
        host_key = self._folder / "ssh_host_ed25519_key"
        self._host_public = make_key(host_key)
        trusted = self._folder / "trusted-user-cas"
        trusted.write_text(ca.public_line + "\n")
        config = self._folder / "sshd_config"
        config.write_text(
            _CONFIG.format(
                port=self.port, host_key=host_key, trusted=trusted, users=" ".join(USERS)
            )
        )
        self.process = Process(
            f"sshd-{name}",
            ["/usr/sbin/sshd", "-D", "-e", "-f", config],
            records=lab.records,
            log=lab.logs / f"sshd-{name}.log",
            env=lab.environment(),
        )

    @property
    def host(self) -> str:
        """``host:port`` for comet.yaml."""
        return f"127.0.0.1:{self.port}"

    @property
    def known_hosts(self) -> str:
        """The known_hosts line that pins this node's key."""
        return f"[127.0.0.1]:{self.port} {' '.join(self._host_public.read_text().split()[:2])}\n"

    @property
    def slurm_path(self) -> Path:
        """Folder of Slurm's commands on this node."""
        return self.shims.path

    def start(self) -> None:
        """Start and wait for the port."""
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd's privilege separation folder
        self.process.start()
        self.process.wait_ready(lambda: answers(self.port), limit_s=10)

    def stop(self) -> None:
        """The node is down: sshd ends, and every open connection with it."""
        sessions = descendants(self.process.pid) if self.process.running else []
        self.process.stop()
        for session in sessions:
            session.end(grace_s=0.5)

    def ssh_argv(self, user: str, *, principals: Sequence[str] | None = None) -> list[str]:
        """argv of an ssh to here as ``user``, up to the command; a new certificate each time."""
        key = self._folder / f"client-{user}"
        if not key.exists():
            make_key(key)
            (self._folder / "known_hosts").write_text(self.known_hosts)
        chosen = [user] if principals is None else principals
        certificate = self.ca.sign_user(key.with_name(key.name + ".pub"), chosen)
        options = {
            "CertificateFile": certificate,
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
            "UserKnownHostsFile": self._folder / "known_hosts",
            "StrictHostKeyChecking": "yes",
            "BatchMode": "yes",
            "ConnectTimeout": "10",
        }
        words = [f"-o{name}={value}" for name, value in options.items()]
        return ["ssh", "-F", "none", "-i", str(key), *words, "-p", str(self.port),
                f"{user}@127.0.0.1"]  # fmt: skip

    def run(
        self, user: str, command: str, *, stdin: str = "", timeout_s: float = 30
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell command as ``user`` on this node, Slurm's commands by their names."""
        return subprocess.run(
            [*self.ssh_argv(user), f"PATH={self.slurm_path}:$PATH; {command}"],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
