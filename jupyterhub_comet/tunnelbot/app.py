"""The gateway as a whole: builds the parts, runs them, drains them."""

import asyncio
import logging
import random
import signal
import time

import asyncssh

from jupyterhub_comet.ssh.keys import GATEWAY_FILES, GatewayKeys, Reloaded, load_gateway_keys
from jupyterhub_comet.tunnelbot.admin import start_admin
from jupyterhub_comet.tunnelbot.admissions import Admissions
from jupyterhub_comet.tunnelbot.audit import audit
from jupyterhub_comet.tunnelbot.connection import JobConnection
from jupyterhub_comet.tunnelbot.hub import HubClient, HubUnreachable
from jupyterhub_comet.tunnelbot.metrics import Metrics
from jupyterhub_comet.tunnelbot.policy import (
    Admitted,
    Decision,
    HubAnswer,
    NotAdmitted,
    Reason,
    decide,
)
from jupyterhub_comet.tunnelbot.reporter import Reporter
from jupyterhub_comet.tunnelbot.rules import make_options
from jupyterhub_comet.tunnelbot.server import Door
from jupyterhub_comet.tunnelbot.settings import GatewaySettings
from jupyterhub_comet.tunnelbot.tunnels import Tunnels

log = logging.getLogger(__name__)

KEYS_CHECK_S = 5.0
BEAT_S = 1.0
FAREWELL_S = 2.0  # for the last report of a drain


class GatewayApp:
    """One tunnelbot process; also the Gateway that its connections ask."""

    def __init__(self, settings: GatewaySettings) -> None:
        """Read keys and memory; raises KeyBroken. Needs a running event loop."""
        self._settings = settings
        self.metrics = Metrics()
        self.hub_address = (settings.hub.forward_host, settings.hub.forward_port)
        folder = settings.keys_folder
        self._keys = Reloaded(
            [folder / n for n in GATEWAY_FILES], lambda: load_gateway_keys(folder)
        )
        self._options = self._make_options()
        self._hub = HubClient(settings.hub.api_url, settings.hub.token_file, self.metrics)
        self._admissions = Admissions(settings.state_folder, time.time())
        self._tunnels = Tunnels(settings.address, settings.port_range, self.metrics)
        self._reporter = Reporter(
            self._hub, self._tunnels, self._admissions, self.metrics, settings.report_seconds
        )
        self._door = Door(settings.listen.host, settings.listen.port, self, lambda: self._options)
        self._connections: set[JobConnection] = set()
        self._draining = False

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then drain. Raises OSError when a port is taken."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        admin = await start_admin(
            self._settings.admin.host, self._settings.admin.port, self.problems, self.metrics
        )
        try:
            await self._hub.read_token()
            port = self._door.open()
            log.info("listening on %s:%d", self._settings.listen.host, port)
            async with asyncio.TaskGroup() as tasks:
                accepting = tasks.create_task(self._door.run())
                others = [
                    tasks.create_task(self._reporter.follow()),
                    tasks.create_task(self._reporter.report()),
                    tasks.create_task(self._watch_files()),
                    tasks.create_task(self._beat()),
                ]
                await stop.wait()
                self._draining = True
                accepting.cancel()
                await asyncio.wait({accepting})
                await self._drain()
                for task in others:
                    task.cancel()
                await asyncio.wait(others)
                await self._say_goodbye()
        finally:
            self._tunnels.close()
            await self._hub.close()
            await admin.cleanup()

    def problems(self) -> list[str]:
        """Return what keeps new tunnels out. The hub is not among it: a hub and a gateway
        that restart together must not wait for each other.
        """
        found = []
        if self._draining:
            found.append("draining")
        elif not self._door.is_open:
            found.append("not listening yet")
        if self._keys.problem is not None:
            found.append(f"keysFolder: {self._keys.problem} (the old keys stay in force)")
        if not self._hub.has_token:
            found.append(f"hub.tokenFile: {self._settings.hub.token_file} holds no token")
        return found

    # The Gateway that connections ask

    @property
    def keys(self) -> GatewayKeys:
        """See connection.Gateway."""
        return self._keys.current

    async def admit(self, spawn: str) -> Decision:
        """See connection.Gateway."""
        if self._draining:
            return NotAdmitted(Reason.DRAINING)
        answer: HubAnswer | None = None
        try:
            answer = await self._hub.ask(spawn)
        except HubUnreachable as exc:
            log.warning("%s: %s", spawn, exc)
        decision = decide(answer, self._admissions.recall(spawn), time.time())
        if isinstance(decision, NotAdmitted):
            if decision.reason is Reason.ENDED:
                await self._tunnels.end(spawn, Reason.ENDED)
                await self._admissions.forget(spawn, time.time())
            return decision
        if not await self._tunnels.hold_port(spawn, decision.port):
            return NotAdmitted(Reason.PORT)
        if not decision.from_memory:
            await self._admissions.remember(spawn, decision.port, time.time())
        return decision

    def connected(self, connection: JobConnection, admitted: Admitted) -> Reason | None:
        """See connection.Gateway."""
        if self._draining:
            return Reason.DRAINING
        reason = self._tunnels.connected(connection, admitted)
        if reason is not None:
            return reason
        self._connections.add(connection)
        outcome = "admitted-from-memory" if admitted.from_memory else "admitted"
        self.metrics.logins.labels(outcome).inc()
        self.metrics.login_seconds.observe(time.monotonic() - connection.begun)
        certificate = connection.certificate
        audit(
            "login",
            outcome=outcome,
            spawn=connection.spawn,
            port=admitted.port,
            source=connection.source,
            key_id=certificate.key_id if certificate else None,
            serial=certificate.serial if certificate else None,
            ca=certificate.ca if certificate else None,
        )
        return None

    def serving(self, connection: JobConnection) -> bool:
        """See connection.Gateway."""
        return self._tunnels.serving(connection)

    def not_serving(self, connection: JobConnection) -> None:
        """See connection.Gateway."""
        self._tunnels.not_serving(connection)

    def lost(self, connection: JobConnection) -> None:
        """See connection.Gateway."""
        self._connections.discard(connection)
        self._tunnels.lost(connection)

    # Loops

    def _make_options(self) -> asyncssh.SSHServerConnectionOptions:
        keys = self._keys.current
        self.metrics.host_certificate_ends.set(keys.host_certificate_ends.timestamp())
        return make_options(keys)

    async def _watch_files(self) -> None:
        """Take new keys when their files change, and a token when there is none yet."""
        told: str | None = None
        while True:
            await asyncio.sleep(KEYS_CHECK_S)
            if await asyncio.to_thread(self._keys.refresh):
                self._options = self._make_options()
                audit("keys-reloaded", cas=",".join(self.keys.trusted.fingerprints))
            if self._keys.problem != told:
                told = self._keys.problem
                if told is not None:
                    log.error("new keys are broken, the old ones stay: %s", told)
            if not self._hub.has_token:
                await self._hub.read_token()

    async def _beat(self) -> None:
        """Measure how late the event loop comes to what is due."""
        while True:
            due = time.monotonic() + BEAT_S
            await asyncio.sleep(BEAT_S)
            self.metrics.loop_lag.set(max(0.0, time.monotonic() - due))

    async def _drain(self) -> None:
        """Take nobody new and send the jobs away one after the other: they come back with
        jitter of their own, to another pod, and not all in the same second.
        """
        self._tunnels.stop_holding()
        connections = list(self._connections)
        random.shuffle(connections)
        log.info("draining %d tunnels over %g s", len(connections), self._settings.drain_seconds)
        for connection in connections:
            connection.end(Reason.DRAINING)
            await asyncio.sleep(self._settings.drain_seconds / len(connections))
        log.info("drained")

    async def _say_goodbye(self) -> None:
        try:
            async with asyncio.timeout(FAREWELL_S):
                await self._reporter.say_goodbye()
        except (HubUnreachable, TimeoutError) as exc:
            log.warning("the hub was not told of the end: %s", exc)
