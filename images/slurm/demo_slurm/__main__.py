"""demo-slurm controller | compute: run the role until a signal or a daemon's end.

demo-slurm ready controller | compute: exit with 0 if it serves (for probes).
"""

import os
import sys

from demo_slurm import files, roles
from demo_slurm.commands import DemoBroken
from demo_slurm.supervisor import Supervisor

ROLES = {"controller": roles.run_controller, "compute": roles.run_compute}
USAGE = "usage: demo-slurm [ready] controller|compute"


def main(arguments: list[str]) -> int:
    """Return the exit status: 0 asked to end, or ready; 1 broken, or not ready; 2 usage."""
    if arguments[:1] == ["ready"] and len(arguments) == 2 and arguments[1] in ROLES:
        return 0 if roles.is_ready(arguments[1]) else 1
    if len(arguments) != 1 or arguments[0] not in ROLES:
        sys.stderr.write(USAGE + "\n")
        return 2
    supervisor = Supervisor()
    supervisor.stop_on_signals()
    try:
        ROLES[arguments[0]](supervisor, files.parse_environment(os.environ))
    except DemoBroken as exc:
        supervisor.say(str(exc))
        return 1
    finally:
        supervisor.stop_all()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
