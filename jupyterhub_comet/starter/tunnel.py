"""One ssh to the gateway, started again whenever it ends, until a final refusal."""

from __future__ import annotations

import os
import queue
import random
import re
import subprocess
import threading
import time
from pathlib import Path

from .base import EX_NOPERM, EX_PROTOCOL, Config, Stop, log

# The gateway's words (tunnelbot/policy.py) for "refused, and asking again will not help".
ENDED_WORDS = "comet-tunnelbot: server ended"
STRANGER_WORDS = ("REMOTE HOST IDENTIFICATION HAS CHANGED", "Host key verification failed")

BACKOFF_S = 15.0  # longest wait before ssh is started again
REFUSED_LIMIT_S = 1800.0  # a job that was never admitted gives up after so long
STRANGER_LIMIT = 3  # wrong host keys in a row that end the job; none ever gets a forward
# What ssh says that is no reason for its end.
CHATTER = ("Transferred: ", "Bytes per second: ", "debug", "@@@@")


class Tunnel(threading.Thread):
    """Keeps the tunnel.

    Puts ("up", None) into `events` at the first admission, ("fatal", Stop) at a final refusal.

    Args:
        config: the job configuration.
        folder: the private folder, with key, certificate and known hosts.
        ssh: path of ssh.
        events: the job's events.
    """

    def __init__(
        self, config: Config, folder: Path, ssh: str, events: queue.SimpleQueue[tuple[str, object]]
    ) -> None:
        super().__init__(daemon=True)
        self.admissions = 0
        self.is_up = threading.Event()
        self._argv = ssh_argv(config, folder, ssh)
        self._env = ssh_environment(ssh)
        self._host = config.host
        self._address = ""  # of the last admission: serves while the DNS does not
        self._events = events
        self._ending = threading.Event()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._said: list[str] = []
        self._told = ""
        self._strangers = 0
        self._refused_since = 0.0

    def run(self) -> None:
        """Start ssh again and again; ends by stop() or on a final refusal."""
        attempt = 0
        while not self._ending.is_set():
            started, admissions = time.monotonic(), self.admissions
            try:
                self._run_ssh()
            except OSError as exc:  # no process or no memory left: that passes
                self._said = [f"ssh does not start: {exc.strerror}"]
            if self._ending.is_set():
                return
            if stop := self._final():
                self._events.put(("fatal", stop))
                return
            self._tell_down(was_up=self.admissions > admissions)
            # A tunnel that held is back soon; full jitter spreads the jobs of a gateway.
            attempt = 1 if time.monotonic() - started > 60 else attempt + 1
            self._ending.wait(random.uniform(1, min(BACKOFF_S, 2.0 ** min(attempt, 9))))  # noqa: S311

    def stop(self) -> None:
        """End ssh for good."""
        self._ending.set()
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                self._process.kill()

    def _run_ssh(self) -> None:
        """One ssh from start to end; what it said last is in _said."""
        unresolved = any("Could not resolve" in line for line in self._said)
        host = self._address if unresolved and self._address else self._host
        self._said = []
        with self._lock:
            if self._ending.is_set():
                return
            # Slurm sends TERM to every process of the job; ssh must outlive it for the last
            # words to the hub. sh hands the ignored signal on, stop() kills.
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", 'trap "" TERM; exec "$0" "$@"', *self._argv, "--", host],
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        reader.start()
        self._process.wait()
        self.is_up.clear()
        # Not for ever: a ProxyCommand may keep the pipe open after ssh has gone.
        reader.join(2)

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        for raw in process.stderr or ():
            line = raw.decode(errors="replace").strip()
            if line.startswith("Authenticated to "):
                self._admitted(line)
            elif line and not line.startswith(CHATTER):
                self._said = [*self._said[-20:], line]

    def _admitted(self, line: str) -> None:
        self.admissions += 1
        self._said, self._told = [], ""
        if address := re.search(r"\(\[([0-9a-fA-F.:]+)\]:", line):
            self._address = address[1]
        self.is_up.set()
        log("tunnel up" if self.admissions == 1 else "tunnel up again")
        if self.admissions == 1:
            self._events.put(("up", None))

    def _final(self) -> Stop | None:
        """Why the tunnel will never be up again; None: it is tried again."""
        said = " ".join(self._said)
        strange = any(words in said for words in STRANGER_WORDS)
        self._strangers = self._strangers + 1 if strange else 0
        # Refused after an admission: the hub or the gateway restarts and does not know us yet.
        if "Permission denied" in said and not self.admissions:
            self._refused_since = self._refused_since or time.monotonic()
        else:
            self._refused_since = 0.0
        refused_s = time.monotonic() - self._refused_since if self._refused_since else 0.0
        return final_word(said, strangers=self._strangers, refused_s=refused_s)

    def _tell_down(self, *, was_up: bool) -> None:
        reason = self._said[-1] if self._said else "ssh ended"
        if was_up or reason != self._told:
            log(f"tunnel {'down' if was_up else 'not up'}: {reason}; trying again")
        self._told = reason


def final_word(said: str, *, strangers: int, refused_s: float) -> Stop | None:
    """Whether the job ends after what ssh said.

    Args:
        said: ssh's last lines.
        strangers: wrong host keys in a row, this one included.
        refused_s: for how long a job that never was admitted has been refused, in seconds.
    """
    if ENDED_WORDS in said:
        return Stop(EX_NOPERM, "the gateway says that this server has ended")
    if strangers >= STRANGER_LIMIT:
        return Stop(
            EX_PROTOCOL,
            "the gateway's host key is not one that the hub told us to trust, so there is no "
            "tunnel; somebody may be in between, or the gateway has a new host CA",
        )
    if refused_s > REFUSED_LIMIT_S:
        return Stop(EX_NOPERM, "the gateway never admitted this job")
    return None


def ssh_argv(config: Config, folder: Path, ssh: str) -> list[str]:
    """ssh's arguments but the host; nothing here is newer than OpenSSH 7.4 (CentOS 7)."""
    options = {
        "BatchMode": "yes",
        "CertificateFile": folder / "tunnel-cert.pub",
        "CheckHostIP": "no",
        "ConnectTimeout": 60,
        "ControlMaster": "no",
        "ControlPath": "none",
        "ExitOnForwardFailure": "yes",
        "GlobalKnownHostsFile": "/dev/null",
        "HostKeyAlias": config.host_key_alias,
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "IdentityFile": folder / "tunnel",
        "LogLevel": "VERBOSE",
        "PreferredAuthentications": "publickey",
        "ServerAliveCountMax": 3,
        "ServerAliveInterval": 15,
        "StreamLocalBindMask": "0177",
        "StreamLocalBindUnlink": "yes",
        "StrictHostKeyChecking": "yes",
        "UpdateHostKeys": "no",
        "UserKnownHostsFile": folder / "known_hosts",
    }
    if config.proxy_command:
        options["ProxyCommand"] = config.proxy_command
    argv = [ssh, "-N", "-T", "-a", "-x", "-F", "none", "-p", str(config.port), "-l", config.spawn]
    for name, value in options.items():
        argv += ["-o", f"{name}={value}"]
    argv += ["-R", f"notebook:8888:{folder}/nb.sock"]
    return [*argv, "-L", f"{folder}/hub.sock:hub:8081"]


def ssh_environment(ssh: str) -> dict[str, str]:
    """The node's environment; the system's ssh breaks on libraries of modules and conda."""
    env = dict(os.environ)
    if ssh in ("/usr/bin/ssh", "/bin/ssh"):
        env.pop("LD_LIBRARY_PATH", None)
        env.pop("LD_PRELOAD", None)
    return env
