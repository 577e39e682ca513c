"""Slurm's commands on the login node, which fail on demand.

Each is a small shell script that finds the lab's SLURM_CONF (the commands of a user arrive in
an empty environment) and then becomes the real command, unless a test has asked for a fault.
This is the process edge: what is faked is the command's behaviour, never our own code.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from .folder import Lab

COMMANDS = ("sbatch", "squeue", "sacct", "scontrol", "scancel", "sinfo", "sacctmgr", "srun")

Fault = Literal["fail", "hang", "garbage", "slow", "empty", "lost"]

_SCRIPT = """\
#!/bin/sh
SLURM_CONF={slurm_conf}
export SLURM_CONF
printf '%s\\t%s\\t%s\\n' "$(/usr/bin/date +%s.%N)" "$(/usr/bin/id -un)" "{command} $*" >>{calls}
fault=$(/usr/bin/cat {faults}/{command} 2>/dev/null)
case $fault in
fail)
  echo 'slurm_load_jobs error: Unable to contact slurm controller (connect failure)' >&2
  exit 1 ;;
hang) exec /usr/bin/sleep 3600 ;;
garbage)
  printf '\\377\\376 <<<motd>>>\\tNaN|\\000|\\nslurm: ??? \\033[31m\\n'
  exit 0 ;;
slow) /usr/bin/sleep 5 ;;
empty) exit 0 ;;
lost)
  {real} "$@" >/dev/null 2>&1
  echo '{command}: error: Socket timed out on send/recv operation' >&2
  exit 1 ;;
esac
exec {real} "$@"
"""


@dataclass(frozen=True)
class Call:
    """One use of a command on the login node."""

    time: float
    user: str
    text: str


class Shims:
    """The folder that comet.yaml names as ``slurmPath``."""

    def __init__(self, lab: Lab) -> None:
        self.path = lab.folder("bin")
        self._faults = lab.folder("faults")
        self._calls = lab.root / "calls.tsv"
        self._calls.touch()
        self._calls.chmod(0o666)  # every user of the lab appends to it
        for command in COMMANDS:
            script = self.path / command
            script.write_text(
                _SCRIPT.format(
                    command=command,
                    real=f"/usr/bin/{command}",
                    slurm_conf=lab.slurm_conf,
                    calls=self._calls,
                    faults=self._faults,
                )
            )
            script.chmod(0o755)

    @contextlib.contextmanager
    def fault(self, command: str, kind: Fault) -> Iterator[None]:
        """Let ``command`` misbehave for everybody during a ``with`` block.

        ``fail``: exit 1 as without slurmctld. ``hang``: no answer for an hour. ``garbage``:
        exit 0 and unreadable output. ``slow``: 5 s late. ``empty``: exit 0 and nothing.
        ``lost``: the real command runs, its answer is lost, exit 1.
        """
        if command not in COMMANDS or kind not in get_args(Fault):
            raise ValueError(f"no such fault: {command} {kind}")
        flag = self._faults / command
        flag.write_text(kind)
        try:
            yield
        finally:
            flag.unlink()

    def calls(self, command: str = "") -> list[Call]:
        """All uses so far, oldest first, of one command or of all."""
        found = []
        for line in self._calls.read_text(errors="replace").splitlines():
            parts = line.split("\t", 2)
            # An argument with a line break spreads over lines; only first lines have a time.
            if len(parts) == 3 and parts[2].split(" ")[0].startswith(command):
                found.append(Call(float(parts[0]), parts[1], parts[2]))
        return found
