"""configurable-http-proxy on loopback ports, apart from the hub as in the chart."""

from __future__ import annotations

import secrets
from pathlib import Path

from .folder import Lab
from .ports import free_port
from .probe import answers
from .processes import Process


class Proxy:
    """CHP. Routes live in its memory: a restarted proxy is empty until the hub looks."""

    def __init__(self, lab: Lab, program: Path, name: str, hub_port: int) -> None:
        self.port = free_port()
        self.api_port = free_port()
        self.auth_token = secrets.token_hex(32)
        self.process = Process(
            f"{name}-proxy",
            [program, "--ip=127.0.0.1", f"--port={self.port}", "--api-ip=127.0.0.1",
             f"--api-port={self.api_port}", "--log-level=info",
             f"--default-target=http://127.0.0.1:{hub_port}",
             f"--error-target=http://127.0.0.1:{hub_port}/hub/error",
             # A gateway that vanished answers nothing at all; ms, longer than its 10 s of holding.
             "--proxy-timeout=30000", "--timeout=0"],
            records=lab.records, log=lab.logs / f"{name}-proxy.log",
            env=lab.environment(CONFIGPROXY_AUTH_TOKEN=self.auth_token),
        )  # fmt: skip

    @property
    def url(self) -> str:
        """Where browsers go, without a slash at its end."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def api_url(self) -> str:
        """Where the hub tells routes."""
        return f"http://127.0.0.1:{self.api_port}"

    def start(self) -> None:
        """Start and wait for both ports."""
        self.process.start()
        self.process.wait_ready(lambda: answers(self.port) and answers(self.api_port), limit_s=60)

    def stop(self) -> None:
        """End the proxy."""
        self.process.stop()

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()

    def restart(self) -> None:
        """Kill and start on the same ports."""
        self.kill()
        self.start()
