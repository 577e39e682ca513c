"""A JupyterHub process: killed, restarted and upgraded by tests, its database kept.

The hub of line 5.5 runs from the tests' own environment, that of 6.1 from a venv in the cache.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path

from .environments import CHECKOUT, Say, hub_python
from .folder import Lab
from .hub_api import HubAPI
from .probe import http_get
from .processes import Process
from .proxy import Proxy

# Everything that configure(c) leaves to the administrator; what z2jh sets in a cluster.
_CONFIG = """\
import os
import jupyterhub_comet.configure

c = get_config()
c.JupyterHub.bind_url = {proxy_url!r}
c.JupyterHub.hub_bind_url = "http://127.0.0.1:{port}"
c.JupyterHub.hub_connect_url = "http://127.0.0.1:{port}"
c.JupyterHub.db_url = "sqlite:///{folder}/jupyterhub.sqlite"
c.JupyterHub.cookie_secret = bytes.fromhex(os.environ["LAB_COOKIE_SECRET"])
c.JupyterHub.authenticator_class = "dummy"
c.JupyterHub.allow_named_servers = True
c.JupyterHub.tornado_settings = {{"slow_spawn_timeout": 0}}
c.JupyterHub.last_activity_interval = 60
c.Authenticator.allow_all = True
c.Authenticator.allowed_users = {{"alice", "bob"}}
c.ConfigurableHTTPProxy.should_start = False
c.ConfigurableHTTPProxy.api_url = {proxy_api_url!r}
c.JupyterHub.services = [
    {{"name": "tunnelbot", "api_token": os.environ["LAB_TUNNELBOT_TOKEN"]}},
    {{"name": "lab", "api_token": os.environ["LAB_ADMIN_TOKEN"]}},
]
c.JupyterHub.load_roles = [{{
    "name": "lab",
    "services": ["lab"],
    "scopes": [
        "admin:users", "admin:servers", "admin:groups", "tokens", "list:users", "list:services",
        "read:services", "proxy", "read:hub", "access:servers",
    ],
}}]
{extra}
jupyterhub_comet.configure.configure(c)
"""


class Hub(HubAPI):
    """The hub.

    Args:
        lab: the lab's folder.
        name: name of its folder and log.
        port: port of its API.
        proxy: the proxy it tells routes.
        settings_file: comet.yaml.
        line: JupyterHub 5.5 or 6.1.
        extra: more lines of jupyterhub_config.py, before ``configure(c)``.
        say: told about builds.
    """

    def __init__(
        self,
        lab: Lab,
        name: str,
        *,
        port: int,
        proxy: Proxy,
        settings_file: Path,
        line: str = "5.5",
        extra: str = "",
        say: Say = print,
    ) -> None:
        super().__init__(proxy.url, secrets.token_hex(32))
        self.line = line
        self.proxy = proxy
        self.port = port
        self.folder = lab.folder(f"{name}-hub", 0o700)
        self.database = self.folder / "jupyterhub.sqlite"
        self.tunnelbot_token = secrets.token_hex(32)
        self._say = say
        config = self.folder / "jupyterhub_config.py"
        config.write_text(
            _CONFIG.format(
                port=port,
                folder=self.folder,
                proxy_url=proxy.url,
                proxy_api_url=proxy.api_url,
                extra=extra,
            )
        )
        self._arguments = ["-m", "jupyterhub", "--config", str(config)]
        self.process = Process(
            f"{name}-hub",
            [],
            records=lab.records,
            log=lab.logs / f"{name}-hub.log",
            env=lab.environment(
                COMET_SETTINGS=str(settings_file),
                CONFIGPROXY_AUTH_TOKEN=proxy.auth_token,
                JUPYTERHUB_CRYPT_KEY=secrets.token_hex(32),
                LAB_COOKIE_SECRET=secrets.token_hex(32),
                LAB_TUNNELBOT_TOKEN=self.tunnelbot_token,
                LAB_ADMIN_TOKEN=self.admin_token,
                PYTHONPATH=str(CHECKOUT),
            ),
            cwd=self.folder,
        )
        self._path = self.process.env["PATH"]
        # Slurm is reached by ssh only; the hub has no slurm.conf.
        del self.process.env["SLURM_CONF"]

    @property
    def pid(self) -> int:
        """Process id of the running hub."""
        return self.process.pid

    @property
    def log(self) -> Path:
        """The log file."""
        return self.process.log

    @property
    def url(self) -> str:
        """Where browsers go: the proxy, without a slash at its end."""
        return self.base_url

    @property
    def direct_url(self) -> str:
        """The hub itself, past the proxy."""
        return f"http://127.0.0.1:{self.port}"

    def start(self, *, line: str = "", wait: bool = True, upgrade_db: bool = False) -> None:
        """Start; with ``wait``, return when it answers through the proxy.

        Args:
            line: change to that line of JupyterHub and stay there.
            wait: whether to wait.
            upgrade_db: let JupyterHub bring the database to its own version.
        """
        self.line = line or self.line
        more = ["--upgrade-db"] if upgrade_db else []
        python = hub_python(self.line, self._say)
        self.process.argv = [str(python), *self._arguments, *more]
        # Upgrading the database runs "alembic" by its name.
        self.process.env["PATH"] = f"{python.parent}:{self._path}"
        self.process.start()
        if wait:
            self.wait_up()

    def wait_up(self, *, limit_s: float = 120) -> None:
        """Wait until the hub answers through the proxy."""

        def healthy() -> bool:
            # The hub first: through the proxy each early question is an error in its log.
            ports = (self.port, self.proxy.port)
            return all(http_get(port, "/hub/health")[0] == 200 for port in ports)

        self.process.wait_ready(healthy, limit_s=limit_s)

    def stop(self) -> None:
        """SIGTERM, and wait for the end: servers stay."""
        self.process.stop(grace_s=15)

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()

    def restart(self, *, line: str = "", upgrade_db: bool = False) -> None:
        """Kill and start with the same database, ports and secrets."""
        self.kill()
        self.start(line=line, upgrade_db=upgrade_db)

    def set_environment(self, changes: Mapping[str, str]) -> None:
        """Environment variables of the next start."""
        self.process.env.update(changes)
