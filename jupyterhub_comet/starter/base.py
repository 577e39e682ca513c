"""The job configuration, the job's log, the private folder, and how a job gives up."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import re
import shutil
import socket
import stat
import sys
import tempfile
import time
from pathlib import Path

# Exit status of the job where it is not the notebook's own (names from sysexits.h).
EX_UNAVAILABLE = 69  # the node lacks something
EX_CANTCREAT = 73  # no private folder or no port
EX_PROTOCOL = 76  # the gateway is not the one we were told to trust
EX_NOPERM = 77  # the server has ended: hub or gateway said so
EX_CONFIG = 78  # the configuration cannot be read

BEGIN = time.monotonic()


class Stop(Exception):
    """The job cannot go on.

    Args:
        status: exit status of the job.
        sentence: for the job's output: what is wrong, and what to do.
    """

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


def log(text: str) -> None:
    """One line in the job's output: elapsed time and a change of state, printable, cut."""
    seconds = int(time.monotonic() - BEGIN)
    text = "".join(c if c.isprintable() else " " for c in text)[:400]
    clock = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    print(f"comet {clock} {text}", file=sys.stderr, flush=True)


@dataclasses.dataclass(frozen=True)
class Config:
    """What the hub wrote into the job script.

    Attributes:
        spawn: the tunnel's SSH user name.
        hub_placeholder: stands in `environment` for the hub's address.
        hub_prefix: path of the hub's API, with a slash at both ends.
        valid_before: end of the certificate, seconds since 1970; 0: it is never renewed.
        check_seconds: pause between two looks at the hub and the certificate.
    """

    spawn: str
    host: str
    port: int
    host_key_alias: str
    known_hosts: str
    proxy_command: str
    private_key: str
    certificate: str
    hub_placeholder: str
    hub_prefix: str
    command: list[str]
    environment: dict[str, str]
    valid_before: float
    check_seconds: float

    @classmethod
    def read(cls, line: bytes) -> Config:
        """The configuration from its line of base64; raises Stop."""
        try:
            data = json.loads(base64.b64decode(line))
            gateway = data["gateway"]
            config = cls(
                spawn=str(data["spawn"]),
                host=str(gateway["host"]),
                port=int(gateway["port"]),
                host_key_alias=str(gateway["host_key_alias"]),
                known_hosts=str(gateway["known_hosts"]),
                proxy_command=str(gateway.get("proxy_command") or ""),
                private_key=str(data["private_key"]),
                certificate=str(data["certificate"]),
                hub_placeholder=str(data["hub_placeholder"]),
                hub_prefix=str(data["hub_prefix"]),
                command=[str(word) for word in data["command"]],
                environment={str(k): str(v) for k, v in data["environment"].items()},
                valid_before=float(data.get("valid_before") or 0),
                check_seconds=float(data.get("check_seconds") or 60),
            )
        except (ValueError, LookupError, TypeError, AttributeError) as exc:
            # The error's text could hold a secret: only its kind is told.
            kind = type(exc).__name__
            raise Stop(EX_CONFIG, f"the job's configuration cannot be read ({kind})") from exc
        if not (config.command and config.hub_placeholder and config.hub_prefix.endswith("/")):
            raise Stop(EX_CONFIG, "the job's configuration lacks command, placeholder or prefix")
        return config


def make_folder() -> Path:
    """A folder of mode 0700 that holds Unix sockets; raises Stop.

    A socket's path has 107 bytes, and not every network file system takes sockets.
    """
    reasons = []
    for base in dict.fromkeys([os.environ.get("TMPDIR", ""), "/tmp", "/dev/shm"]):  # noqa: S108
        if base:
            try:
                return _try_folder(Path(base).absolute())
            except OSError as exc:
                reasons.append(f"{base}: {exc.strerror or exc}")
    raise Stop(EX_CANTCREAT, "no private folder can be made: " + "; ".join(reasons))


def _try_folder(base: Path) -> Path:
    info = base.stat()
    others_write = info.st_mode & 0o022 and not info.st_mode & stat.S_ISVTX
    if others_write or info.st_uid not in (0, os.getuid()):
        raise OSError("others could exchange a folder there")
    # ssh gives spaces, quotes, colons and percent signs in its options meanings of their own.
    # 38: "/comet-xxxxxxxx/rt/kernel-", a UUID of 36 and "-ipc-99" make 107.
    if not re.fullmatch(r"[\w./+,=@-]{1,38}", str(base), re.ASCII):
        raise OSError("its path is too long, or not plain enough for ssh")
    folder = Path(tempfile.mkdtemp(prefix="comet-", dir=base))
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.bind(str(folder / "probe"))
        (folder / "probe").unlink()
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def write_private(path: Path, text: str) -> None:
    """Write a file of mode 0600 as a whole: a reader sees the old text or the new."""
    new = path.with_name(path.name + ".new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text if text.endswith("\n") else text + "\n")
    new.replace(path)
