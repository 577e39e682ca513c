"""Running a command on a cluster as one of its accounts, whichever way a site allows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Result:
    """What a command printed and how it ended; a nonzero status is no error here."""

    exit_status: int
    stdout: str
    stderr: str


class Transport(Protocol):
    """One way to a cluster."""

    async def run(
        self, account: str, argv: Sequence[str], *, stdin: str = "", timeout_s: float = 20.0
    ) -> Result:
        """Run a command in an environment made from nothing, in the account's home directory.

        Args:
            account: the cluster account that it runs as.
            argv: the program, by its absolute path, and its arguments; no shell reads them.
            stdin: all of its standard input.
            timeout_s: seconds that the command itself may take; it is killed after that.

        Raises:
            ClusterUnreachable: surely nothing ran.
            ReplyLost: it may have run.
            OutputUnreadable: it ran, and printed more than anybody should read.
            Refused: the account may never log in.
        """

    async def close(self) -> None:
        """Close what is kept open."""
