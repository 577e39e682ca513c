"""The job: notebook, tunnel and relay together, signals, and the way to the hub."""

from __future__ import annotations

import http.client
import json
import os
import queue
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from .base import (
    EX_CANTCREAT,
    EX_NOPERM,
    EX_UNAVAILABLE,
    Config,
    Stop,
    log,
    make_folder,
    write_private,
)
from .notebook import check_jupyter_server, notebook_argv, notebook_environment
from .relay import HubConnection, Relay
from .tunnel import Tunnel

TERM_LIMIT_S = 10.0  # Slurm kills 30 s (KillWait) after its TERM
TOKEN_CHECK_S = 1800.0  # the token is checked after each admission, and so often
ENDS = (signal.SIGTERM, signal.SIGINT)
TELLS = (signal.SIGUSR1, signal.SIGUSR2)


class Job:
    """Everything that runs.

    Args:
        config: the job configuration.
        folder: the private folder.
        umask: for the notebook and what runs in it; our own files are always private.

    Raises:
        Stop, OSError: the node lacks something.
    """

    def __init__(self, config: Config, folder: Path, umask: int) -> None:
        self._config = config
        self._folder = folder
        self._umask = umask
        self._events: queue.SimpleQueue[tuple[str, object]] = queue.SimpleQueue()
        self._notebook: subprocess.Popen[bytes] | None = None
        ssh = shutil.which("ssh") or shutil.which("ssh", path="/usr/bin:/usr/local/bin:/bin")
        if ssh is None:
            raise Stop(EX_UNAVAILABLE, "this node has no ssh, which the tunnel needs")
        write_private(folder / "tunnel", config.private_key)
        write_private(folder / "tunnel-cert.pub", config.certificate)
        write_private(folder / "known_hosts", config.known_hosts)
        self._relay = Relay(folder / "hub.sock", config.hub_prefix)
        self._tunnel = Tunnel(config, folder, ssh, self._events)
        self._hub = Hub(config, folder, self._tunnel, self._events)
        self._env = notebook_environment(config, folder, self._relay.url)

    def run(self) -> int:
        """Until the notebook ends or a TERM comes; the job's exit status. Raises Stop."""
        for number in ENDS + TELLS:
            signal.signal(number, lambda number, _: self._events.put(("signal", number)))
        self._tunnel.start()
        self._hub.start()
        threading.Thread(target=self._check, daemon=True).start()
        held = False  # the notebook gave up before there was a tunnel
        while True:
            kind, value = self._events.get()
            if isinstance(value, Stop):
                raise value
            if kind == "start" or (kind == "up" and held):
                held = False
                self._start_notebook()
            elif kind == "signal" and isinstance(value, int):
                log(f"{signal.Signals(value).name} received")
                told = self._hub.tell_aside("signal", signal.Signals(value).name)
                if value in ENDS:
                    status = self._end_notebook()
                    told.join(3)
                    return self._goodbye(status)
            elif kind == "notebook" and isinstance(value, int):
                if value == 0 or self._tunnel.admissions:
                    return self._goodbye(value)
                # It gives up on a hub that it cannot reach for 2 minutes. The job does not.
                log(f"notebook ended with status {value} before there was a tunnel; waiting")
                held = True

    def _check(self) -> None:
        """Aside, so that a slow file system does not keep signals waiting."""
        try:
            check_jupyter_server(self._config.command, self._env)
        except Stop as stop:
            self._events.put(("fatal", stop))
        else:
            self._events.put(("start", None))

    def _start_notebook(self) -> None:
        try:
            self._notebook = subprocess.Popen(
                notebook_argv(self._config, self._folder),
                env=self._env,
                stdin=subprocess.DEVNULL,
                umask=self._umask,
            )
        except OSError as exc:
            raise Stop(EX_UNAVAILABLE, f"the notebook does not start: {exc.strerror}") from exc
        log("notebook started")
        threading.Thread(target=self._watch, args=(self._notebook,), daemon=True).start()

    def _watch(self, notebook: subprocess.Popen[bytes]) -> None:
        while notebook.poll() is None and not (self._folder / "nb.sock").exists():
            time.sleep(0.25)
        if notebook.poll() is None:
            log("notebook listening")
        self._events.put(("notebook", _status(notebook.wait())))

    def _end_notebook(self) -> int:
        if self._notebook is None:
            return _status(-signal.SIGTERM)
        self._notebook.terminate()
        try:
            return _status(self._notebook.wait(TERM_LIMIT_S))
        except subprocess.TimeoutExpired:
            self._notebook.kill()
            return _status(self._notebook.wait())

    def _goodbye(self, status: int) -> int:
        log(f"notebook ended with status {status}")
        self._hub.tell("exit", exit_status=status)
        return status

    def close(self) -> None:
        """End everything that is still there."""
        if self._notebook is not None and self._notebook.poll() is None:
            self._end_notebook()
        self._tunnel.stop()
        self._relay.close()


class Hub(threading.Thread):
    """Asks the hub now and then whether this server still is one, and renews the certificate.

    Args:
        config: the job configuration.
        folder: the private folder.
        tunnel: the way to the hub.
        events: ("fatal", Stop) is put here when the hub says that the server has ended.
    """

    def __init__(
        self,
        config: Config,
        folder: Path,
        tunnel: Tunnel,
        events: queue.SimpleQueue[tuple[str, object]],
    ) -> None:
        super().__init__(daemon=True)
        self._config = config
        self._folder = folder
        self._tunnel = tunnel
        self._events = events

    def run(self) -> None:
        """Look, for ever."""
        checked, next_check, denied = 0, 0.0, 0
        renew_at = _renewal(self._config.valid_before)
        while denied < 2:
            time.sleep(self._config.check_seconds * random.uniform(0.5, 1.5))  # noqa: S311
            if not self._tunnel.is_up.is_set():
                continue
            try:
                if denied or checked != self._tunnel.admissions or time.monotonic() > next_check:
                    checked = self._tunnel.admissions
                    next_check = time.monotonic() + TOKEN_CHECK_S
                    # The hub deletes the token at a server's end. Two answers, not one.
                    status, _ = self.ask("GET", "user")
                    denied = denied + 1 if status in (401, 403) else 0
                if time.time() > renew_at:
                    renew_at = _renewal(self._renew())
            except OSError:
                continue
        stop = Stop(EX_NOPERM, "the hub says that this server has ended: its token is not known")
        self._events.put(("fatal", stop))

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, bytes]:
        """Status and body of a request with the server's own token; raises OSError."""
        hub = HubConnection(self._folder / "hub.sock", timeout=3, patience=0)
        token = self._config.environment.get("JUPYTERHUB_API_TOKEN", "")
        headers = {"Authorization": f"token {token}", "Content-Type": "application/json"}
        try:
            data = None if body is None else json.dumps(body)
            hub.request(method, self._config.hub_prefix + path, data, headers)
            response = hub.getresponse()
            return response.status, response.read(1 << 20)
        except http.client.HTTPException as exc:
            raise OSError(type(exc).__name__) from exc
        finally:
            hub.close()

    def tell(self, event: str, name: str = "", exit_status: int | None = None) -> None:
        """Tell the hub what happens here; it can do without."""
        body = {"event": event, "signal": name, "exit_status": exit_status}
        try:
            self.ask("POST", f"comet/spawns/{self._config.spawn}/events", body)
        except OSError:
            return

    def tell_aside(self, event: str, name: str) -> threading.Thread:
        """The same without waiting for the hub."""
        thread = threading.Thread(target=self.tell, args=(event, name), daemon=True)
        thread.start()
        return thread

    def _renew(self) -> float:
        """Have the certificate signed again.

        Returns:
            Its new end; where the hub would not, a time that leads to a retry in an hour.
        """
        path = self._folder / "tunnel-cert.pub"
        body = {"certificate": path.read_text(encoding="utf-8").strip()}
        url = f"comet/spawns/{self._config.spawn}/certificate"
        status, answer = self.ask("POST", url, body)
        try:
            data = json.loads(answer)
            new, end = str(data["certificate"]), float(data["valid_before"])
        except (ValueError, LookupError, TypeError):
            log(f"certificate not renewed (status {status}); trying again in an hour")
            return time.time() + 4 * 3600 / 3
        write_private(path, new)
        log("certificate renewed")
        return end


def _status(returncode: int) -> int:
    """Exit status as a shell has it: 128 + the signal's number."""
    return 128 - returncode if returncode < 0 else returncode


def _renewal(valid_before: float) -> float:
    """When a certificate is renewed: after three quarters of what is left of it."""
    now = time.time()
    return now + (valid_before - now) * 0.75 if valid_before else float("inf")


def main(line: bytes) -> int:
    """Run the job that a line of base64 describes; its exit status."""
    umask = os.umask(0o077)
    folder, job = None, None
    try:
        config = Config.read(line)
        folder = make_folder()
        log(f"{config.spawn} on {socket.gethostname()}, gateway {config.host}:{config.port}")
        job = Job(config, folder, umask)
        return job.run()
    except Stop as stop:
        log(f"stopping: {stop}")
        return stop.status
    except OSError as exc:
        log(f"stopping: {exc.strerror or exc} ({exc.filename or 'no file'})")
        return EX_CANTCREAT
    finally:
        if job is not None:
            job.close()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(sys.stdin.buffer.readline()))
