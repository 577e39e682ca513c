"""What is sent to the account's login shell, and how the answer is cut out of what comes back
(pure).

Invariants:

* the remote command line is one constant text, so it means the same to bash, dash, ksh, zsh,
  csh, tcsh and fish: single quotes around text without ``'``, ``!``, backslash or line end,
  which is where their rules of quoting differ. A site's force-command can match it literally.
* what varies (the argv, the marks, standard input) travels on standard input, of which nothing
  runs before its last byte has come: a connection that breaks under a half-sent job script
  submits nothing.
* the command's environment is made from nothing, so that SBATCH_*, SQUEUE_* and their like
  from dot files mean nothing (T44). Banners and noise of dot files stay outside the marks.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence

from jupyterhub_comet.errors import OutputUnreadable

# read: byte by byte in every sh, so that cat finds the rest. `.` keeps trailing line ends.
# ${#input} counts bytes, since LC_ALL is C. printf is built in: no secret enters an argv.
# timeout: what we have given up on must not submit a job later, nor hang there for ever.
_PROGRAM = (
    "read -r mark size limit words || exit 1; "
    "input=$(cat; echo .); input=${input%.}; "
    '[ "${#input}" -eq "$size" ] || exit 1; '
    'eval "set -- $words"; '
    'echo "$mark"; '
    'printf %s "$input" | timeout -k 3 "$limit" "$@"; '
    'echo "$mark $?"'
)

# Seconds since 1970 are the one form of time without a zone; TZ for what ignores the variable.
COMMAND = (
    'exec /usr/bin/env -i HOME="$HOME" USER="$USER" LOGNAME="$USER" '
    "PATH=/usr/local/bin:/usr/bin:/bin LC_ALL=C TZ=UTC SLURM_TIME_FORMAT=%s "
    f"/bin/sh -c '{_PROGRAM}'"
)
"""The remote command line, the same for every call."""

STOPPED = (124, 137)
"""Exit statuses of timeout(1) for a command that took too long: TERM was enough, KILL was not
needed or was."""


def render_input(argv: Sequence[str], *, stdin: str, mark: str, timeout_s: float) -> bytes:
    """Standard input of `COMMAND`.

    Args:
        argv: a program and its arguments.
        stdin: the program's own standard input.
        mark: random letters and digits.
        timeout_s: seconds until the program is stopped, rounded up.

    Raises:
        ValueError: a line end in an argument, or a NUL anywhere: neither can be sent.
    """
    words = shlex.join(argv)
    if "\n" in words or "\0" in words or "\0" in stdin:
        raise ValueError("a line end in an argument, or a NUL")
    body = stdin.encode()
    head = f"{mark} {len(body)} {math.ceil(timeout_s)} {words}\n"
    return head.encode() + body


def has_begun(output: bytes, mark: str) -> bool:
    """Whether the program was started: its first mark is there."""
    return _first(mark) in output


def parse_output(output: bytes, mark: str) -> tuple[int, str] | None:
    """Exit status and standard output of the program; None when its end is missing.

    Raises:
        OutputUnreadable: the last mark carries no status.
    """
    _, _, rest = output.partition(_first(mark))
    inside, found, after = rest.rpartition(f"{mark} ".encode())
    if not found or not after.endswith(b"\n"):
        return None
    status = after.strip()
    if not status.isdigit():
        raise OutputUnreadable("the end mark of a remote command carries no exit status")
    return int(status), inside.decode(errors="replace")


def _first(mark: str) -> bytes:
    return f"{mark}\n".encode()
