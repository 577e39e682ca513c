"""tunnelbot as a process, with keys laid out as the chart mounts them."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import yaml

from .folder import Lab
from .keys import CertificateAuthority, make_key
from .ports import free_port
from .probe import http_get
from .processes import Process

HOST_PRINCIPAL = "comet-tunnelbot"


class Tunnelbot:
    """The gateway.

    Args:
        lab: the lab's folder.
        name: name of its folder and log.
        tunnel_ca: the CA whose certificates it admits.
        host_ca: the CA that signs its host key.
        hub_port: port of the hub's API on the loopback address.
        token: tunnelbot's service token at the hub.
        port_range: first and last listen port.
    """

    def __init__(
        self,
        lab: Lab,
        name: str,
        *,
        tunnel_ca: CertificateAuthority,
        host_ca: CertificateAuthority,
        hub_port: int,
        token: str,
        port_range: tuple[int, int],
    ) -> None:
        self.port = free_port()
        self.admin_port = free_port()
        self.folder = lab.folder(f"{name}-tunnelbot", 0o700)
        self.keys_folder = self._make_keys(tunnel_ca, host_ca)
        self.token_file = self.folder / "token"
        self.token_file.touch(0o600)
        self.token_file.write_text(token)
        self.state_folder = self.folder / "state"
        self.state_folder.mkdir()
        self.config = {
            "listen": {"host": "127.0.0.1", "port": self.port},
            "admin": {"host": "127.0.0.1", "port": self.admin_port},
            "hub": {
                "apiUrl": f"http://127.0.0.1:{hub_port}/hub/api",
                "forwardHost": "127.0.0.1",
                "forwardPort": hub_port,
                "tokenFile": str(self.token_file),
            },
            "keysFolder": str(self.keys_folder),
            "stateFolder": str(self.state_folder),
            "address": "127.0.0.1",
            "portRange": {"first": port_range[0], "last": port_range[1]},
            "reportSeconds": 5,
            "drainSeconds": 1,
        }
        self._config_file = self.folder / "tunnelbot.yaml"
        self.process = Process(
            f"{name}-tunnelbot",
            [sys.executable, "-m", "jupyterhub_comet.tunnelbot", "--config", self._config_file],
            records=lab.records,
            log=lab.logs / f"{name}-tunnelbot.log",
            env=lab.environment(),
        )

    def _make_keys(self, tunnel_ca: CertificateAuthority, host_ca: CertificateAuthority) -> Path:
        folder = self.folder / "keys"
        folder.mkdir(mode=0o700)
        public = make_key(folder / "ssh_host_key")
        host_ca.sign_host(public, [HOST_PRINCIPAL])
        public.unlink()
        (folder / "trusted-user-cas").write_text(tunnel_ca.public_line + "\n")
        return folder

    @property
    def log(self) -> Path:
        """The log file."""
        return self.process.log

    def admin(self, path: str) -> tuple[int, str]:
        """Status and body of ``/healthz``, ``/readyz`` or ``/metrics``; 0 if nothing answers."""
        return http_get(self.admin_port, path)

    def start(self, *, wait: bool = True) -> None:
        """Start; with ``wait``, return when it says that it is ready."""
        self._config_file.write_text(yaml.safe_dump(self.config))
        self.process.start()
        if wait:
            self.process.wait_ready(lambda: self.admin("/healthz")[0] == 200, limit_s=60)

    def stop(self) -> None:
        """SIGTERM, and wait for the end."""
        self.process.stop(grace_s=15)

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()

    def restart(self, *, keep_state: bool = True) -> None:
        """Kill and start with the same keys and ports; ``keep_state`` False is a new pod."""
        self.kill()
        if not keep_state:
            shutil.rmtree(self.state_folder)
            self.state_folder.mkdir()
        self.start()
