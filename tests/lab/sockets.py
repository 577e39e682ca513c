"""Which TCP ports a group of processes listens on, as /proc tells.

Asked by process and not by user: other labs on the machine run jobs of the same users.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

_LISTEN = "0A"


def listening_ports(pids: Iterable[int]) -> set[int]:
    """TCP ports, of IPv4 and IPv6, that any of the processes listens on."""
    inodes = {inode for pid in pids for inode in _socket_inodes(pid)}
    ports = set()
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            columns = line.split()
            if columns[3] == _LISTEN and columns[9] in inodes:
                ports.add(int(columns[1].rpartition(":")[2], 16))
    return ports


def _socket_inodes(pid: int) -> set[str]:
    found = set()
    try:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            target = str(descriptor.readlink())
            if target.startswith("socket:["):
                found.add(target.removeprefix("socket:[").removesuffix("]"))
    except OSError:
        pass  # the process, or one descriptor, ended meanwhile
    return found
