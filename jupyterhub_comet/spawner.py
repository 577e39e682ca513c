"""CometSpawner: a server is a Slurm job that dials out to tunnelbot.

The tunnel is the event: `start()` returns when the notebook answers through it. A server
ends only on positive evidence; whatever is unknown counts as running.
"""

from __future__ import annotations

import asyncio
import dataclasses
import shlex
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from batchspawner import SlurmSpawner
from jupyterhub import orm
from jupyterhub.apihandlers import default_handlers
from jupyterhub.spawner import Spawner
from jupyterhub.utils import url_path_join, utcnow
from sqlalchemy.orm import Session, object_session
from tornado.httpclient import AsyncHTTPClient, HTTPClientError
from traitlets import default

from .context import Context, context
from .errors import (
    ClusterUnreachable,
    CometError,
    JobEnded,
    Refused,
    ReplyLost,
    SettingsBroken,
)
from .form import options_from_form, render_form
from .job import HUB_PLACEHOLDER, make_script
from .progress import describe_wait
from .refusal import http_error
from .registry import Tunnel
from .resume import SilentServer, is_starting, resume_start
from .slurm.options import JobRequest, parse_options, request_argv
from .slurm.state import Phase
from .ssh.principal import new_spawn_id
from .state import ServerState
from .view import View, wait_until_ready

# Only batchspawner's class is wanted here; importing it adds a handler to the hub's API.
default_handlers[:] = [
    handler for handler in default_handlers if handler[0] != r"/api/batchspawner"
]

# Longest time that stop() waits for Slurm before the cancelling goes on in the background.
_STOP_WAIT_S = 10.0
# The page of a waiting server gets a new line at least this often.
_PROGRESS_S = 10.0
_ANSWER_TIMEOUT_S = 10.0


class CometSpawner(SlurmSpawner):
    """One server of one user, as a Slurm job of that user.

    `c.SlurmSpawner.req_*` (partition, account, qos, reservation, memory, nprocs, gres, options,
    prologue, epilogue) are defaults for what a profile leaves open; every profile has its
    walltimes, so req_runtime has nothing to fill.
    """

    server: Any  # JupyterHub's wrapper of the server's row

    _state: ServerState | None = None
    _submission: asyncio.Future[str] | None = None

    # The hub's address means nothing on a compute node: the starter puts its own port here.
    @default("hub_connect_url")
    def _default_hub_connect_url(self) -> str:
        return HUB_PLACEHOLDER

    # PATH and the like of the hub's pod must not reach a compute node.
    @default("env_keep")
    def _default_env_keep(self) -> list[str]:
        return []

    @default("options_form")
    def _default_options_form(self) -> object:
        return lambda _spawner: render_form(context().settings)

    @default("options_from_form")
    def _default_options_from_form(self) -> object:
        return options_from_form

    @default("apply_user_options")
    def _default_apply_user_options(self) -> object:
        return CometSpawner._check_options

    @default("req_homedir")
    def _default_req_homedir(self) -> str:
        # A user of the hub is no user of the hub's pod, so passwd is not asked.
        return ""

    def get_env(self) -> dict[str, str]:
        """JupyterHub's environment for the notebook, without any of the hub's own user."""
        env: dict[str, str] = Spawner.get_env(self)
        return env

    @property
    def _session(self) -> Session:
        session = object_session(self.orm_spawner)
        assert session is not None  # noqa: S101 - the hub keeps its rows in one session
        return session

    # --- state -----------------------------------------------------------------------------

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up the server that the database knows, after the hub's restart."""
        Spawner.load_state(self, state)
        stored = state.get("comet")
        if stored is None or self.orm_spawner.server is None:
            return
        self._state = ServerState.from_json(stored)
        self.job_id = self._state.job_id
        context().registry.restore(
            self._state.spawn, self._state.port, self._state.user, self._state.server
        )

    def get_state(self) -> dict[str, Any]:
        """What the database must keep."""
        state: dict[str, Any] = Spawner.get_state(self)
        if self._state is not None:
            state["comet"] = self._state.to_json()
        return state

    def clear_state(self) -> None:
        """Forget the server; also runs where the hub skips stop() because the job has ended."""
        super().clear_state()
        if self._state is None:
            return
        context().registry.end(self._state.spawn)
        self._delete_token(self._state)
        view = View(context(), self._state)
        if view.key is not None:
            with suppress(SettingsBroken):
                view.cluster.monitor.forget(view.key)
        self._state = None
        self._submission = None

    def _set(self, **changes: object) -> ServerState:
        """Change the state and commit it at once."""
        assert self._state is not None  # noqa: S101 - only called between begin and end
        self._state = dataclasses.replace(self._state, **changes)  # type: ignore[arg-type]
        self.job_id = self._state.job_id
        self.orm_spawner.state = self.get_state()
        self._session.commit()
        return self._state

    def _delete_token(self, state: ServerState) -> None:
        # After a restart the hub no longer knows which token was this server's.
        for token in self._session.query(orm.APIToken).filter_by(hashed=state.token_hash):
            self._session.delete(token)
        self._session.commit()

    # --- start -----------------------------------------------------------------------------

    async def _check_options(self, user_options: Mapping[str, object]) -> None:
        """Refuse options with a 400 that names the field; JupyterHub calls it before start."""
        try:
            self._checked_request(user_options)
        except CometError as exc:
            # Not to come back as the defaults of the next start.
            self.orm_spawner.user_options = None
            self._session.commit()
            raise http_error(exc) from exc

    def _checked_request(self, user_options: Mapping[str, object]) -> JobRequest:
        ctx = context()
        ctx.check_servers_of(self.user.name)
        return parse_options(ctx.settings, user_options)

    def _site_arguments(self, request: JobRequest) -> list[str]:
        """sbatch arguments from `req_*` for what the profile leaves open."""
        defaults = [
            ("partition", self.req_partition, request.partition),
            ("account", self.req_account, request.account),
            ("qos", self.req_qos, request.qos),
            ("reservation", self.req_reservation, request.reservation),
            ("mem", self.req_memory, request.memory_mb),
            ("cpus-per-task", self.req_nprocs, request.cores),
            ("gres", self.req_gres, request.gpus),
        ]
        chosen = [f"--{name}={default}" for name, default, own in defaults if default and not own]
        return [*chosen, *shlex.split(self.req_options)]

    async def start(self) -> str:
        """Submit the job and return the notebook's URL once it answers through the gateway."""
        try:
            request = self._checked_request(self.user_options)
            self._begin(context(), request)
            await self._submit(request)
            tunnel = await self._wait_until_ready()
        except CometError as exc:
            raise http_error(exc) from exc
        return tunnel.url

    def _begin(self, ctx: Context, request: JobRequest) -> None:
        """Write down the spawn before anything of it exists elsewhere."""
        token = orm.APIToken.find(self._session, self.api_token)
        spawn = new_spawn_id()
        port = ctx.registry.assign(spawn, self.user.name, self.name)
        self._state = ServerState(
            spawn=spawn,
            port=port,
            user=self.user.name,
            server=self.name,
            cluster=request.cluster,
            account=ctx.account_of(self.user.name),
            created=datetime.now(UTC).isoformat(),
            walltime_s=request.walltime_s,
            token_hash=token.hashed if token is not None else "",
        )
        self._set()

    async def _submit(self, request: JobRequest) -> None:
        settings = context().settings
        state = self._started()
        profile = settings.profiles[request.profile]
        script = make_script(
            settings,
            profile,
            state,
            environment=self.get_env(),
            args=self.get_args(),
            hub_prefix=url_path_join(self.hub.base_url, "api", "/"),
            prologue=profile.prologue or self.req_prologue,
            epilogue=profile.epilogue or self.req_epilogue,
        )
        argv = request_argv(
            request,
            spawn=state.spawn,
            job_name="jupyterhub",
            output="jupyter-%j.log",
            extra=[*profile.extra_options, *self._site_arguments(request)],
        )
        # Not cancelled with start(): sbatch may have taken the job, and stop() wants its id.
        self._submission = asyncio.ensure_future(
            self._look().cluster.client.submit(
                state.account, argv, script, spawn=state.spawn, since=state.created_at
            )
        )
        job_id = await asyncio.shield(self._submission)
        self._set(job_id=job_id)
        self.log.info("%s: job %s submitted as %s", self._log_name, job_id, state.account)

    async def _wait_until_ready(self) -> Tunnel:
        return await wait_until_ready(self._look, self._answers)

    async def _answers(self, tunnel: Tunnel) -> bool:
        """Ask the notebook once; a short pause after a failure keeps the caller's loop calm."""
        url = url_path_join(tunnel.url, self.server.base_url, "api")
        try:
            answer = await AsyncHTTPClient().fetch(
                url, request_timeout=_ANSWER_TIMEOUT_S, follow_redirects=False, raise_error=False
            )
        except (HTTPClientError, OSError) as exc:
            self.log.debug("%s: no answer yet at %s: %s", self._log_name, url, exc)
        else:
            if answer.code < 500 and answer.code != 599:
                version = answer.headers.get("X-JupyterHub-Version", "")
                self._set(answered=True, notebook_version=version)
                return True
        await asyncio.sleep(0.2)
        return False

    # --- after the start -------------------------------------------------------------------

    async def poll(self) -> int | None:
        """None while the server lives or nothing certain is known; a look-up, never a query."""
        if self._state is None:
            return 0
        if is_starting(self):
            # start() itself sees the job's end and says why.
            return None
        view = self._look()
        if end := view.end():
            self.log.info("%s: job %s ended: %s", self._log_name, view.state.job_id, end)
            return 1
        if view.tunnel is None:
            # Nobody can use it meanwhile, so its idle time does not count: the culler waits.
            self.orm_spawner.last_activity = utcnow(with_tz=False)
            self._session.commit()
        return None

    async def get_url(self) -> str:
        """The server's URL at the hub's start; never waits, never raises (see resume.py)."""
        server = self.server
        if self._state is not None:
            server = SilentServer(
                orm_server=self.orm_spawner.server, notebook_version=self._state.notebook_version
            )
            self.server = server
            if not self._state.answered and not is_starting(self):
                self.log.info("%s: its start goes on after the hub's restart", self._log_name)
                resume_start(self, self._finish_start, lambda: self.user.stop(self.name))
        url: str = server.url
        return url

    async def _finish_start(self) -> None:
        if not self._started().job_id:
            await self._find_lost_job()
        await self._wait_until_ready()
        await self.follow_tunnel()

    async def _find_lost_job(self) -> None:
        """The hub died while sbatch ran: the job may exist under this spawn's id."""
        state = self._started()
        client = self._look().cluster.client
        found = await client.find_by_spawn(state.account, state.spawn, state.created_at)
        if not found:
            raise JobEnded("The hub was restarted before Slurm took the job: start again.")
        if len(found) > 1:
            jobs = ", ".join(record.job_id for record in found)
            raise JobEnded(f"Several jobs ({jobs}) claim to be this server; all are cancelled.")
        self._set(job_id=found[0].job_id)

    async def follow_tunnel(self) -> None:
        """Bring the server's row and the proxy's route to where the tunnel is now."""
        tunnel = self._look().tunnel if self._state is not None else None
        if tunnel is None or self.server is None:
            return
        if (self.server.ip, self.server.port) != (tunnel.address, tunnel.port):
            self.server.ip, self.server.port = tunnel.address, tunnel.port
            self._session.commit()
        if self._started().answered:
            await self.user.settings["proxy"].add_user(self.user, self.name)

    async def stop(self, now: bool = False) -> None:
        """Cancel the job; certificate and token are useless before Slurm is asked."""
        state = self._state
        if state is None:
            return
        context().registry.end(state.spawn)
        self._delete_token(state)
        if self._submission is not None and not state.job_id:
            # sbatch is still running: its answer saves a search.
            await asyncio.wait({self._submission}, timeout=_STOP_WAIT_S)
            failure = self._submission.exception() if self._submission.done() else None
            if isinstance(failure, Refused | ClusterUnreachable) and not isinstance(
                failure, ReplyLost
            ):
                return  # surely nothing was submitted, so there is nothing to look for
            if self._submission.done() and failure is None:
                state = self._set(job_id=self._submission.result())
        cluster = state.cluster
        await context().cancellations.cancel(
            lambda: context().cluster(cluster).client, state, 0.1 if now else _STOP_WAIT_S
        )

    async def progress(self) -> AsyncIterator[dict[str, object]]:
        """Tell what the job waits for, at every change and every few seconds."""
        while self._state is not None:
            view = self._look()
            verdict, record = view.verdict(), view.verdict().record
            percent, message = describe_wait(
                phase=verdict.phase,
                reason=record.reason if record else "",
                job_id=view.state.job_id,
                nodes=record.nodes if record else "",
                waited_s=(datetime.now(UTC) - view.state.created_at).total_seconds(),
                unknown_because=verdict.reason if verdict.phase is Phase.UNKNOWN else "",
                tunnel_up=view.tunnel is not None,
            )
            yield {"progress": percent, "message": message}
            seen, until = view.news(), time.monotonic() + _PROGRESS_S
            while self._state is not None and (left := until - time.monotonic()) > 0:
                view = self._look()
                if view.news() != seen:
                    break
                await view.wait_for_news(min(left, 1.0))

    # --- look-ups --------------------------------------------------------------------------

    def _started(self) -> ServerState:
        if self._state is None:
            raise JobEnded("The server was stopped.")
        return self._state

    def _look(self) -> View:
        """The present view; keeps Slurm's submit time once it is known."""
        view = View(context(), self._started())
        record = view.verdict().record
        if not view.state.submit_time and record is not None and record.submit_time is not None:
            state = self._set(submit_time=record.submit_time.isoformat())
            view = View(view.context, state)
        return view

    async def is_pending(self) -> bool:
        """Whether Slurm says, freshly, that the job has not started (T21); unknown is no."""
        view = self._look()
        verdict = view.verdict()
        # A job that Slurm was never asked about may well be waiting: its key came with it.
        if verdict.phase is not Phase.WAITING and verdict.as_of is not None:
            return False
        await view.cluster.monitor.refresh(max_age_s=1)
        return self._look().verdict().phase is Phase.WAITING
