"""Free ports that two labs at the same time never share.

Asking the kernel for port 0 and closing it again is a race: the port lies in the ephemeral
range, and any outgoing connection may get it before the daemon binds. So ports are taken from
below that range and held by a file lock for this process's life; a crash frees them.
Tunnels' listen ports come in blocks from 20000 to 29999, as in the chart.
"""

from __future__ import annotations

import fcntl
import random
import socket
import tempfile
from pathlib import Path
from typing import TextIO

from .waiting import LabBroken

_FIRST, _LAST = 10200, 19999
_BLOCK_FIRST, _BLOCK_LAST, BLOCK_SIZE = 20000, 29999, 50

_held: list[TextIO] = []


def _hold(name: str) -> bool:
    folder = Path(tempfile.gettempdir()) / "comet-lab-ports"
    folder.mkdir(exist_ok=True)
    file = (folder / name).open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return False
    _held.append(file)
    return True


def _is_free(port: int) -> bool:
    # Both: something may listen on one loopback address or on all of them.
    for address in ("127.0.0.1", "0.0.0.0"):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError:
                return False
    return True


def free_port() -> int:
    """A port nobody listens on, ours until this process ends."""
    for port in random.sample(range(_FIRST, _LAST + 1), 200):
        if _is_free(port) and _hold(str(port)):
            return port
    raise LabBroken(f"no free port from {_FIRST} to {_LAST}")


def free_block() -> tuple[int, int]:
    """First and last of :data:`BLOCK_SIZE` free ports in a row, ours until this process ends."""
    starts = list(range(_BLOCK_FIRST, _BLOCK_LAST + 1, BLOCK_SIZE))
    for first in random.sample(starts, len(starts)):
        block = range(first, first + BLOCK_SIZE)
        if all(_is_free(port) for port in block) and _hold(f"block-{first}"):
            return first, block[-1]
    raise LabBroken("no free block of ports for tunnels")
