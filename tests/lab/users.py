"""Linux users of the lab: two researchers and the account that only asks."""

from __future__ import annotations

import fcntl
import pwd
import subprocess
import tempfile
from pathlib import Path
from types import MappingProxyType

from .waiting import LabBroken

# Name to uid; the same in the demo image.
USERS = MappingProxyType({"alice": 10001, "bob": 10002, "jhquery": 10009})


def ensure_users() -> None:
    """Make the users that are missing, with homes of their own.

    Raises:
        LabBroken: a name or uid belongs to somebody else on this machine.
    """
    # Several labs may start at once, and useradd lets only one of them in.
    with Path(tempfile.gettempdir(), "comet-lab-users.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _ensure_users()


def _ensure_users() -> None:
    for name, uid in USERS.items():
        try:
            known = pwd.getpwnam(name)
        except KeyError:
            _make_user(name, uid)
            continue
        if known.pw_uid != uid:
            raise LabBroken(
                f"this machine has a user {name} with uid {known.pw_uid}, the lab needs {uid}; "
                "run the lab on a machine without that user"
            )


def _make_user(name: str, uid: int) -> None:
    made = subprocess.run(
        [
            "useradd", "--uid", str(uid), "--user-group", "--create-home",
            "--home-dir", f"/home/{name}", "--key", "HOME_MODE=0700", "--shell", "/bin/bash",
            # "*" is "no password"; useradd's own "!" is "locked", which sshd refuses.
            "--password", "*", name,
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if made.returncode and "already exists" not in made.stderr:
        raise LabBroken(f"useradd {name}: {made.stderr.strip()}")
