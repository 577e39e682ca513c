"""What can go wrong in local/.

LocalError          everything below; its text is a whole sentence for the person at the terminal
  CommandFailed     a program that we ran ended with an error or over its time limit
  Missing           something that we cannot supply ourselves is not on this machine
  NotReady          something that we started did not become ready in time
  Cancelled         another step failed or the person pressed Ctrl-C
"""

from __future__ import annotations

from collections.abc import Sequence


class LocalError(Exception):
    """Base of all errors of local/."""


class CommandFailed(LocalError):
    """A program ended with an error, or ran longer than it may."""

    def __init__(self, argv: Sequence[str], reason: str, output: str = "") -> None:
        super().__init__(f"`{' '.join(argv[:6])}{' ...' if len(argv) > 6 else ''}` {reason}")
        self.output = output


class Missing(LocalError):
    """Something is not on this machine and local/ cannot supply it."""


class NotReady(LocalError):
    """A part that was started did not become ready within its limit."""


class Cancelled(LocalError):
    """The step was stopped because another one failed, or by Ctrl-C."""
