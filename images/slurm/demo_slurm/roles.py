"""The two roles: which daemons run, in which order, and how each is asked whether it serves."""

import socket
from pathlib import Path

from demo_slurm import accounting, files
from demo_slurm.commands import DemoBroken, run, succeeds
from demo_slurm.supervisor import Daemon, Supervisor

SSH_PORT = 22
SLURMCTLD_PORT = 6817
TCP_LISTEN = "0A"  # state column of /proc/net/tcp
CONTROLLER_LIMIT_S = 600.0  # pods start in any order, and the login node may still pull its image


def _munged() -> Daemon:
    return Daemon(
        "munged", ["munged", "--foreground"], lambda: succeeds(["munge", "-n"]), user="munge"
    )


def sshd_listens() -> bool:
    """Say whether something listens on port 22.

    The kernel's table is read, since each connection without a login would leave lines in the log.
    """
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        for line in table.read_text().splitlines()[1:]:
            _, local, _, state = line.split()[:4]
            if state == TCP_LISTEN and int(local.rsplit(":", 1)[1], 16) == SSH_PORT:
                return True
    return False


def slurmctld_answers() -> bool:
    """Say whether slurmctld answers: `scontrol ping` exits with 0 even when it does not."""
    try:
        return " is UP" in run(["scontrol", "ping"], limit_s=5)
    except DemoBroken:
        return False


def node_serves(node: str) -> bool:
    """Say whether slurmctld has this node and counts on it.

    States look like `IDLE`, `MIXED+PLANNED`, `DOWN*+NOT_RESPONDING`; a star means no answer.
    """
    try:
        answer = run(["scontrol", "-o", "show", "node", node], limit_s=5)
    except DemoBroken:
        return False
    state = next((f for f in answer.split() if f.startswith("State=")), "State=UNKNOWN")
    return not any(word in state for word in ("*", "DOWN", "FAIL", "UNKNOWN", "NOT_RESPONDING"))


def _port_is_open(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=2).close()
    except OSError:
        return False
    return True


def run_controller(supervisor: Supervisor, settings: files.Settings) -> None:
    """Start the login node: munged, mariadbd, slurmdbd, slurmctld, sshd, in this order."""
    if socket.gethostname() != settings.controller_host:
        raise DemoBroken(
            f"this host is called {socket.gethostname()}, the controller must be called "
            f"{settings.controller_host}: set the pod's `hostname`"
        )
    files.prepare_controller(settings)
    accounting.ensure_database()
    supervisor.start(_munged())
    supervisor.start(
        Daemon("mariadbd", accounting.MARIADBD, lambda: succeeds(accounting.MARIADB_PING))
    )
    accounting.ensure_database_user(files.parse_password(files.read_secret("slurmdbd-password")))
    supervisor.start(
        Daemon(
            "slurmdbd",
            ["slurmdbd", "-D"],
            lambda: succeeds(["sacctmgr", "-n", "list", "cluster"]),
            user="slurm",
        )
    )
    # slurmctld refuses to start on a cluster that slurmdbd does not know.
    accounting.ensure_associations()
    supervisor.start(Daemon("slurmctld", ["slurmctld", "-D"], slurmctld_answers, user="slurm"))
    # Last, so that whoever can log in finds a Slurm that works.
    sshd = ["/usr/sbin/sshd", "-D", "-e", "-f", str(files.TEMPLATES / "sshd_config")]
    supervisor.start(Daemon("sshd", sshd, sshd_listens))
    supervisor.say("the cluster is up")
    supervisor.watch()


def run_compute(supervisor: Supervisor, settings: files.Settings) -> None:
    """Start a compute node: munged, then slurmd once slurmctld can be reached."""
    node = socket.gethostname()
    files.prepare_compute()
    supervisor.start(_munged())
    supervisor.wait_for(
        f"slurmctld on {settings.controller_host}",
        lambda: _port_is_open(settings.controller_host, SLURMCTLD_PORT),
        CONTROLLER_LIMIT_S,
    )
    server = f"{settings.controller_host}:{SLURMCTLD_PORT}"
    slurmd = ["slurmd", "-D", "-N", node, "--conf-server", server]
    supervisor.start(Daemon("slurmd", slurmd, lambda: node_serves(node)))
    supervisor.watch()


def is_ready(role: str) -> bool:
    """Answer the readiness probe of a role."""
    if role == "controller":
        return slurmctld_answers() and sshd_listens()
    return node_serves(socket.gethostname())
