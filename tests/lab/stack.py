"""Hub, proxy and tunnelbot wired together over the lab's cluster, with their comet.yaml."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import yaml

from .environments import Say, node_environment, proxy_program
from .folder import Lab
from .hub import Hub
from .keys import CertificateAuthority
from .login import LoginNode
from .ports import free_block, free_port
from .proxy import Proxy
from .slurm import Slurm
from .slurm_config import PARTITIONS
from .tunnelbot import HOST_PRINCIPAL, Tunnelbot

_numbers = itertools.count(1)


class Stack:
    """All that one hub needs; start and stop it, or its parts one by one.

    Args:
        lab: the lab's folder.
        slurm: the cluster that servers run on.
        login: the cluster's login node.
        line: JupyterHub's line, 5.5 or 6.1, of hub and notebooks.
        extra: more lines of jupyterhub_config.py.
        say: told about builds.
    """

    def __init__(
        self,
        lab: Lab,
        slurm: Slurm,
        login: LoginNode,
        *,
        line: str = "5.5",
        extra: str = "",
        say: Say = print,
    ) -> None:
        self.slurm = slurm
        self.login = login
        self.name = f"stack{next(_numbers)}"
        self.line = line
        self.folder = lab.folder(self.name, 0o700)
        self.node_environment = node_environment(line, say)
        self.tunnel_ca = CertificateAuthority(self.folder / "tunnel-ca")
        self.host_ca = CertificateAuthority(self.folder / "host-ca")
        shutil.copy(self.host_ca.public, self.tunnel_ca.folder / "host-ca.pub")
        self.settings_file = self.folder / "comet.yaml"
        hub_port = free_port()
        port_range = free_block()
        self.proxy = Proxy(lab, proxy_program(say), self.name, hub_port)
        self.hub = Hub(
            lab, self.name, port=hub_port, proxy=self.proxy, settings_file=self.settings_file,
            line=line, extra=extra, say=say,
        )  # fmt: skip
        self.tunnelbot = self.make_tunnelbot(lab, self.name, port_range)
        self.settings = self._make_settings(port_range)
        self.write_settings()

    def make_tunnelbot(self, lab: Lab, name: str, port_range: tuple[int, int]) -> Tunnelbot:
        """A gateway of this stack, not yet started; a second one stands for a second pod."""
        return Tunnelbot(
            lab,
            name,
            tunnel_ca=self.tunnel_ca,
            host_ca=self.host_ca,
            hub_port=self.hub.port,
            token=self.hub.tunnelbot_token,
            port_range=port_range,
        )

    def _make_settings(self, port_range: tuple[int, int]) -> dict[str, Any]:
        return {
            "clusters": {
                "comet": {
                    "title": "Comet",
                    "login": {
                        "hosts": [self.login.host],
                        "knownHosts": self.login.known_hosts,
                        "connectTimeoutSeconds": 5,
                    },
                    "queryAccount": "jhquery",
                    "slurmPath": str(self.login.slurm_path),
                    "pollSeconds": 1,
                    "commandTimeoutSeconds": 10,
                    "graceSeconds": 5,
                }
            },
            "profiles": {name: self._make_profile(name) for name in PARTITIONS},
            "defaultProfile": "shared",
            "accounts": {},
            "tunnelbot": {
                "hostname": "127.0.0.1",
                "port": self.tunnelbot.port,
                "hostKeyAlias": HOST_PRINCIPAL,
                "podService": "localhost",
                "portRange": {"first": port_range[0], "last": port_range[1]},
            },
            "keys": {
                "tunnelCa": str(self.tunnel_ca.folder),
                "login": str(self.login.ca.folder),
            },
        }

    def _make_profile(self, partition: str) -> dict[str, Any]:
        profile: dict[str, Any] = {
            "title": f"Partition {partition}",
            "cluster": "comet",
            "partition": partition,
            "cores": {"choices": [1, 2, 6, 12, 24], "default": 1},
            "walltime": {"choices": ["00:10:00", "01:00:00", "02:00:00"]},
            # As on a real cluster: the environment is loaded, then found by its names.
            "prologue": f"export PATH={self.node_environment}/bin:$PATH",
        }
        if partition.startswith("gpu"):
            profile["gpus"] = {"choices": [1, 2, 4]}
        return profile

    def write_settings(self) -> None:
        """Write ``settings`` to comet.yaml, swapped in whole as Kubernetes does."""
        draft = Path(f"{self.settings_file}.new")
        draft.write_text(yaml.safe_dump(self.settings, sort_keys=False))
        draft.replace(self.settings_file)

    async def new_user(self, account: str) -> str:
        """A hub user that no other test has, who works on the cluster as ``account``."""
        name = f"{account}-{next(_numbers)}"
        self.settings["accounts"][name] = account
        self.write_settings()
        await self.hub.api("POST", f"/users/{name}")
        return name

    def start(self) -> None:
        """Start proxy, hub and tunnelbot; returns when all are ready."""
        self.proxy.start()
        self.hub.start()
        self.tunnelbot.start()

    def stop(self) -> None:
        """End them; jobs are cancelled first, so that nothing is left to look for a gateway."""
        self.slurm.cancel_all("alice", "bob")
        self.tunnelbot.stop()
        self.hub.stop()
        self.proxy.stop()
