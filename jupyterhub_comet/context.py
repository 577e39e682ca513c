"""What all servers of one hub process share: settings, registry, one client per cluster.

JupyterHub makes spawners and handlers itself and gives neither a place for shared objects,
so this module holds the one instance of the process; `context()` makes it at first use.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .cancellations import Cancellations
from .errors import OptionRefused, SettingsBroken
from .registry import Registry
from .settings import DEFAULT_PATH, ClusterSettings, Settings, SettingsFile
from .slurm.client import SlurmClient
from .slurm.monitor import Monitor
from .transport import Transport
from .transport.ssh import SSHTransport


@dataclass(frozen=True)
class Cluster:
    """The hub's way to one Slurm."""

    name: str
    settings: ClusterSettings
    transport: Transport
    client: SlurmClient
    monitor: Monitor

    async def close(self) -> None:
        """End the polls and the kept connections."""
        await self.monitor.close()
        await self.transport.close()


class Context:
    """Shared parts of one hub process.

    Args:
        path: comet.yaml.

    Raises:
        SettingsBroken: comet.yaml is missing or wrong.
    """

    def __init__(self, path: Path) -> None:
        self._file = SettingsFile(path)
        settings = self._file.current()
        gateway = settings.tunnelbot
        self.registry = Registry(
            gateway.port_range,
            quarantine_s=gateway.quarantine_seconds,
            silence_s=gateway.silence_seconds,
        )
        self.cancellations = Cancellations()
        self._clusters: dict[str, Cluster] = {}

    @property
    def settings(self) -> Settings:
        """The newest good settings."""
        return self._file.current()

    def cluster(self, name: str) -> Cluster:
        """The client and the running monitor of a cluster; needs a running event loop.

        A cluster whose settings changed gets new ones; servers that run keep asking by name,
        so they meet the new client at their next call.

        Raises:
            SettingsBroken: no cluster of that name is configured (any more).
        """
        settings = self.settings
        wanted = settings.clusters.get(name)
        if wanted is None:
            raise SettingsBroken(
                f"clusters.{name} is gone from the settings, but servers still run there: "
                "put it back until they have ended"
            )
        known = self._clusters.get(name)
        if known is not None and known.settings == wanted:
            return known
        if known is not None:
            # The reference keeps the task alive until it is done.
            self._closing = asyncio.ensure_future(known.close())
        made = self._make(name, wanted, Path(settings.keys.login) / "ca")
        made.monitor.start()
        self._clusters[name] = made
        return made

    @staticmethod
    def _make(name: str, settings: ClusterSettings, ca_path: Path) -> Cluster:
        transport = SSHTransport(settings.login, ca_path)
        client = SlurmClient(
            transport,
            slurm_path=settings.slurm_path,
            timeout_s=settings.command_timeout_seconds,
            max_submits=settings.max_submits,
        )
        monitor = Monitor(
            client,
            cluster=name,
            query_account=settings.query_account,
            interval_s=settings.poll_seconds,
            grace_s=settings.grace_seconds,
        )
        return Cluster(name, settings, transport, client, monitor)

    def account_of(self, user: str) -> str:
        """The cluster account of a hub user: the explicit map, else the same name."""
        return self.settings.accounts.get(user, user)

    def check_servers_of(self, user: str) -> None:
        """Refuse one more server to somebody who has the most that one may have (T30).

        Raises:
            OptionRefused: with the limit.
        """
        limit = self.settings.spawn.servers_per_user
        if self.registry.count(user) >= limit:
            raise OptionRefused(
                "servers", f"you already have {limit}, the most that one may have: stop one"
            )


def settings_path() -> Path:
    """Path of comet.yaml: COMET_SETTINGS in the environment, else where the chart mounts it."""
    return Path(os.environ.get("COMET_SETTINGS") or DEFAULT_PATH)


@cache
def context() -> Context:
    """The process's one context.

    Raises:
        SettingsBroken: comet.yaml is missing or wrong.
    """
    return Context(settings_path())
