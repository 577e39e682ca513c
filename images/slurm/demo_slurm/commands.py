"""Run one short command to its end, with a limit; and the error that every part raises."""

import subprocess
from collections.abc import Sequence


class DemoBroken(Exception):
    """The demo cannot start or go on; the message names the thing and the next step."""


def run(argv: Sequence[str], *, stdin: str = "", limit_s: float = 60.0) -> str:
    """Return the command's standard output.

    Args:
        argv: the command and its arguments; secrets belong in stdin, never here.
        stdin: text for its standard input.
        limit_s: seconds after which the command is killed.

    Raises:
        DemoBroken: it could not run, took too long or did not exit with 0.
    """
    try:
        done = subprocess.run(
            argv, input=stdin, capture_output=True, text=True, timeout=limit_s, check=False
        )
    except OSError as exc:
        raise DemoBroken(f"{argv[0]} cannot run: {exc}") from exc
    except subprocess.TimeoutExpired as exc:
        raise DemoBroken(f"{argv[0]} did not end within {limit_s:g} s") from exc
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip())[-2000:]
        raise DemoBroken(f"{' '.join(argv[:4])} exited with {done.returncode}: {said}")
    return done.stdout


def succeeds(argv: Sequence[str], *, limit_s: float = 5.0) -> bool:
    """Say whether the command exits with 0 within the limit: a question, not a step."""
    try:
        run(argv, limit_s=limit_s)
    except DemoBroken:
        return False
    return True
