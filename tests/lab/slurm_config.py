"""Text of the lab's Slurm configuration (pure).

Two nodes named as Comet's were, both of them this machine: NodeHostname and Port tell
Slurm's daemons apart. The nodes claim more than the machine has (config_overrides) and GPUs
that are only counted, so that every choice of the 2016 form can run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

NODES = ("comet-14-01", "comet-14-02")
PARTITIONS = ("compute", "shared", "gpu", "gpu-shared")
CPUS_PER_NODE = 24
MEMORY_MB = 131072
GPU_FILES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random")
GPUS_PER_NODE = len(GPU_FILES)
ACCOUNTS = ("demo", "TG-DEMO01")


@dataclass(frozen=True)
class SlurmPorts:
    """Loopback ports of the daemons."""

    controller: int
    database_daemon: int
    database: int
    nodes: tuple[int, ...]


def render_slurm_conf(
    *, host: str, root: Path, munge_socket: Path, ports: SlurmPorts, settings: Mapping[str, str]
) -> str:
    """slurm.conf; ``settings`` are lines that replace or add to the ones here."""
    lines = {
        "ClusterName": "comet",
        "SlurmctldHost": f"{host}(127.0.0.1)",
        "SlurmctldPort": str(ports.controller),
        "SlurmUser": "root",
        "AuthType": "auth/munge",
        "AuthInfo": f"socket={munge_socket}",
        "StateSaveLocation": f"{root}/slurmctld",
        "SlurmdSpoolDir": f"{root}/slurmd-%n",
        "SlurmctldPidFile": f"{root}/slurmctld.pid",
        "SlurmdPidFile": f"{root}/slurmd-%n.pid",
        "SlurmdParameters": "config_overrides",
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "JobAcctGatherType": "jobacct_gather/none",
        "MpiDefault": "none",
        "SwitchType": "switch/none",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_CPU_Memory",
        "GresTypes": "gpu",
        "ReturnToService": "2",
        "PropagateResourceLimits": "NONE",
        "JobRequeue": "1",
        "AccountingStorageType": "accounting_storage/slurmdbd",
        "AccountingStorageHost": "127.0.0.1",
        "AccountingStoragePort": str(ports.database_daemon),
        # With munge this is no password but the socket for connections to slurmdbd.
        "AccountingStoragePass": str(munge_socket),
        "AccountingStorageEnforce": "associations,limits,qos",
        "AccountingStorageTRES": "gres/gpu",
        # A waiting job starts within a second.
        "SchedulerParameters": (
            "batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1"
        ),
        # Seconds from TERM to KILL: half of Slurm's own, enough to tidy up on a busy machine.
        "KillWait": "15",
        "CompleteWait": "0",
        "MinJobAge": "300",
        "MessageTimeout": "10",
        "SlurmctldDebug": "info",
        "SlurmdDebug": "info",
        **settings,
    }
    text = [f"{key}={value}" for key, value in lines.items()]
    text += [
        f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} "
        f"CPUs={CPUS_PER_NODE} RealMemory={MEMORY_MB} Gres=gpu:{GPUS_PER_NODE} State=UNKNOWN"
        for name, port in zip(NODES, ports.nodes, strict=True)
    ]
    limits = "MaxTime=48:00:00 DefaultTime=00:30:00 DefMemPerCPU=1024 State=UP"
    text += [
        f"PartitionName={name} Nodes={','.join(NODES)} {limits}"
        + (" Default=YES OverSubscribe=EXCLUSIVE" if name == "compute" else "")
        for name in PARTITIONS
    ]
    return "\n".join(text) + "\n"


def render_gres_conf() -> str:
    """gres.conf: GPUs that are counted and given to jobs by number, but drive nothing.

    Slurm 22.05 drops a GPU without a device file from its node, so each gets a device that
    every machine has; nothing opens it.
    """
    files = ",".join(GPU_FILES)
    return "".join(f"NodeName={name} Name=gpu File={files}\n" for name in NODES)


def render_cgroup_conf() -> str:
    """cgroup.conf: none of the plugins above asks for a controller.

    Slurm 22.05 has no ``disabled`` yet; its v1 plugin touches nothing until it is asked.
    """
    return "CgroupPlugin=cgroup/v1\n"


def render_slurmdbd_conf(
    *, root: Path, munge_socket: Path, ports: SlurmPorts, password: str
) -> str:
    """slurmdbd.conf; holds the database password, so the file must be root's alone."""
    return (
        "AuthType=auth/munge\n"
        f"AuthInfo=socket={munge_socket}\n"
        "DbdHost=localhost\n"
        "DbdAddr=127.0.0.1\n"
        f"DbdPort={ports.database_daemon}\n"
        "SlurmUser=root\n"
        f"PidFile={root}/slurmdbd.pid\n"
        "DebugLevel=info\n"
        "StorageType=accounting_storage/mysql\n"
        "StorageHost=127.0.0.1\n"
        f"StoragePort={ports.database}\n"
        "StorageUser=slurm\n"
        f"StoragePass={password}\n"
        "StorageLoc=slurm_acct_db\n"
    )
