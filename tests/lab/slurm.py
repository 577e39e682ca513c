"""A real Slurm cluster of two nodes on this machine, with accounting.

munged, mariadbd, slurmdbd, slurmctld and two slurmd, all in the lab's folder, on ports of its
own, so that several labs live side by side and the distribution's services are never used.
"""

from __future__ import annotations

import contextlib
import pwd
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from .database import Database, Munge
from .folder import Lab
from .logs import LOGS
from .ports import free_port
from .probe import answers
from .processes import Process, descendants, with_environment
from .slurm_config import (
    ACCOUNTS,
    NODES,
    SlurmPorts,
    render_cgroup_conf,
    render_gres_conf,
    render_slurm_conf,
    render_slurmdbd_conf,
)
from .users import USERS, ensure_users
from .waiting import LabBroken, wait_for


class Slurm:
    """The cluster. Its daemons are :class:`Process` objects to be stopped and killed by tests."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.root = lab.folder("slurm")
        self.ports = SlurmPorts(free_port(), free_port(), free_port(), (free_port(), free_port()))
        self.munge = Munge(lab)
        self.database = Database(lab, self.ports.database)
        self._settings: dict[str, str] = {}
        self.slurmdbd = self._daemon("slurmdbd", ["/usr/sbin/slurmdbd", "-D"])
        # -i: a lab's state is never worth refusing to start for.
        self.slurmctld = self._daemon("slurmctld", ["/usr/sbin/slurmctld", "-D", "-i"])
        self.slurmd = {
            node: self._daemon(f"slurmd-{node}", ["/usr/sbin/slurmd", "-D", "-N", node])
            for node in NODES
        }

    def _daemon(self, name: str, argv: list[str]) -> Process:
        return Process(
            name,
            argv,
            records=self.lab.records,
            log=self.lab.logs / f"{name}.log",
            env=self.lab.environment(),
            cwd=self.root,
        )

    # -- life ---------------------------------------------------------------------------

    def start(self) -> None:
        """Start everything; returns when both nodes are idle."""
        ensure_users()
        self._write_config()
        self.munge.start()
        self.database.start()
        self.database.wait_ready()
        self.slurmdbd.start()
        self.slurmdbd.wait_ready(lambda: answers(self.ports.database_daemon), limit_s=60)
        self._make_accounts()
        for daemon in (self.slurmctld, *self.slurmd.values()):
            daemon.start()
        self.wait_idle()
        LOGS.add_source(self.job_outputs)

    def stop(self) -> None:
        """Cancel all jobs, then end the daemons."""
        with contextlib.suppress(LabBroken):
            self.cancel_all()
        for daemon in (*self.slurmd.values(), self.slurmctld, self.slurmdbd):
            daemon.stop()
        self.database.stop()
        self.munge.stop()
        LOGS.forget(self.root, self.job_outputs)

    def wait_idle(self, limit_s: float = 60) -> None:
        """Wait until slurmctld answers and every node can take a job."""

        def usable() -> bool:
            states = self.run(["sinfo", "-h", "-N", "-o", "%N %T"], check=False).stdout.split("\n")
            ready = {line.split()[0] for line in states if line.endswith((" idle", " mixed"))}
            return ready == set(NODES)

        for daemon in (self.slurmctld, *self.slurmd.values()):
            daemon.wait_ready(usable, limit_s=limit_s)

    # -- configuration ------------------------------------------------------------------

    def _write_config(self) -> None:
        etc = self.lab.slurm_conf.parent
        for name in ("slurmctld", *(f"slurmd-{node}" for node in NODES)):
            self.lab.folder(f"slurm/{name}")
        self.lab.slurm_conf.write_text(
            render_slurm_conf(
                host=socket.gethostname().split(".")[0],
                root=self.root,
                munge_socket=self.munge.socket,
                ports=self.ports,
                settings=self._settings,
            )
        )
        (etc / "gres.conf").write_text(render_gres_conf())
        (etc / "cgroup.conf").write_text(render_cgroup_conf())
        secret = etc / "slurmdbd.conf"
        secret.touch(0o600)
        secret.write_text(
            render_slurmdbd_conf(
                root=self.root,
                munge_socket=self.munge.socket,
                ports=self.ports,
                password=self.database.password,
            )
        )

    @contextlib.contextmanager
    def settings(self, **changes: str) -> Iterator[None]:
        """slurm.conf lines for the time of a ``with`` block, ``MinJobAge="2"`` for example.

        Only lines that ``scontrol reconfigure`` takes up.
        """
        before = dict(self._settings)
        try:
            self._reconfigure({**before, **changes})
            yield
        finally:
            self._reconfigure(before)

    def _reconfigure(self, settings: dict[str, str]) -> None:
        self._settings = settings
        self._write_config()
        self.run(["scontrol", "reconfigure"])

    def _make_accounts(self) -> None:
        accounts = ",".join(ACCOUNTS)
        for words in (
            ["cluster", "comet"],
            ["account", accounts, "Cluster=comet"],
            ["user", "alice,bob", f"Account={accounts}", f"DefaultAccount={ACCOUNTS[0]}"],
        ):
            self.run(["sacctmgr", "-i", "add", *words])

    # -- asking and acting as root ------------------------------------------------------

    def run(
        self, argv: Sequence[str], *, check: bool = True, timeout_s: float = 30
    ) -> subprocess.CompletedProcess[str]:
        """Run one of Slurm's commands as root, past login node and shims.

        Raises:
            LabBroken: it failed and ``check`` is set.
        """
        done = subprocess.run(
            list(argv),
            env=self.lab.environment(SLURM_TIME_FORMAT="standard"),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if check and done.returncode:
            raise LabBroken(f"{' '.join(argv)}: {done.stderr.strip() or done.stdout.strip()}")
        return done

    def queue(self, user: str = "") -> list[dict[str, str]]:
        """squeue's jobs that have not ended, of one user or of everybody."""
        fields = {
            "job_id": "%i", "user": "%u", "partition": "%P", "state": "%T", "reason": "%r",
            "nodes": "%N", "cpus": "%C", "limit": "%l", "account": "%a", "name": "%j",
            "comment": "%k", "gres": "%b",
        }  # fmt: skip
        argv = ["squeue", "-h", "-a", "-o", "\t".join(fields.values())]
        lines = self.run(argv + (["-u", user] if user else [])).stdout.splitlines()
        return [dict(zip(fields, line.split("\t"), strict=True)) for line in lines if line]

    def job(self, job_id: str) -> dict[str, str]:
        """``scontrol show job`` as a mapping; empty if slurmctld no longer knows the job."""
        shown = self.run(["scontrol", "-o", "show", "job", job_id], check=False)
        if shown.returncode:
            return {}
        return dict(word.split("=", 1) for word in shown.stdout.split() if "=" in word)

    def accounting(self, job_id: str) -> dict[str, str]:
        """sacct's row for the job itself (not its steps); empty if there is none yet."""
        fields = {
            "job_id": "JobIDRaw", "user": "User", "partition": "Partition", "state": "State",
            "account": "Account", "cpus": "AllocCPUS", "nodes": "NodeList", "limit": "Timelimit",
            "tres": "AllocTRES", "exit_code": "ExitCode",
        }  # fmt: skip
        columns = ",".join(fields.values())
        answer = self.run(["sacct", "-X", "-n", "-P", "-j", job_id, "-o", columns])
        lines = answer.stdout.splitlines()
        return dict(zip(fields, lines[0].split("|"), strict=True)) if lines else {}

    def wait_state(self, job_id: str, *states: str, limit_s: float = 30) -> str:
        """Wait until the job is in one of ``states`` (scontrol's words); the state."""

        def reached() -> str:
            state = self.job(job_id).get("JobState", "")
            return state if state in states else ""

        what = f"job {job_id} to be {' or '.join(states)}"
        return wait_for(reached, what, limit_s=limit_s, interval_s=0.1)

    def job_pids(self, job_id: str) -> set[int]:
        """Live processes of a job of this cluster, on whichever node, with their children."""
        ours = with_environment("SLURM_CONF", str(self.lab.slurm_conf))
        roots = {each.pid for each in with_environment("SLURM_JOB_ID", job_id) if each in ours}
        return roots | {child.pid for root in roots for child in descendants(root)}

    def cancel_all(self, *users: str, limit_s: float = 30) -> None:
        """Cancel every job of ``users`` (of everybody), and wait until none is left."""
        users = users or tuple(USERS)
        live = "PENDING,RUNNING,SUSPENDED,COMPLETING,CONFIGURING"

        def gone() -> bool:
            argv = ["squeue", "-h", "-a", "-o", "%i", "-t", live, "-u", ",".join(users)]
            return not self.run(argv).stdout.strip()

        if gone():
            return
        for user in users:
            self.run(["scancel", "-u", user], check=False)
        wait_for(gone, f"the jobs of {', '.join(users)} to end", limit_s=limit_s, interval_s=0.2)

    @contextlib.contextmanager
    def full_partition(self, partition: str) -> Iterator[None]:
        """Let every node of the partition be taken during a ``with`` block: jobs wait."""
        done = self.run(
            ["sbatch", "--parsable", "-p", partition, f"-N{len(NODES)}", "--exclusive",
             "-o", "/dev/null", "-J", "full", "--wrap", "sleep 3600"]
        )  # fmt: skip
        blocker = done.stdout.strip()
        try:
            self.wait_state(blocker, "RUNNING")
            yield
        finally:
            self.run(["scancel", blocker])
            self.wait_state(blocker, "CANCELLED")

    def job_outputs(self) -> list[Path]:
        """Output files of the jobs that slurmctld still knows, newest last."""
        shown = self.run(["scontrol", "-o", "show", "job"], check=False).stdout
        paths = [
            Path(word.removeprefix("StdOut="))
            for word in shown.split()
            if word.startswith("StdOut=/")
        ]
        return [path for path in paths if path.is_file()][-5:]


def home_of(user: str) -> Path:
    """Home folder of a Linux user."""
    return Path(pwd.getpwnam(user).pw_dir)
