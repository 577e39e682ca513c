"""The lab's folder: state, sockets, logs and pid records of everything it started.

It lies outside the checkout, in ``$COMET_LAB`` or the temporary folder, and is removed at the
end (``COMET_LAB_KEEP=1`` keeps it). The path is short, since Unix sockets allow 107 bytes.
Users of the lab may pass through it; secrets inside have modes of their own.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path

from .logs import LOGS
from .processes import Identity, recorded, with_environment

_PREFIX = "comet-lab-"


def parent_folder() -> Path:
    """Where lab folders are made."""
    return Path(os.environ.get("COMET_LAB") or tempfile.gettempdir())


class Lab:
    """One lab's folder. Made by :meth:`create`, ended by :meth:`remove`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.records = root / "processes"
        self.logs = root / "logs"
        self.slurm_conf = root / "etc" / "slurm.conf"

    @classmethod
    def create(cls) -> Lab:
        """A new folder; labs whose owner has died are ended first."""
        parent = parent_folder()
        parent.mkdir(parents=True, exist_ok=True)
        end_stale_labs(parent)
        lab = cls(Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent)))
        lab.root.chmod(0o755)
        for folder in (lab.records, lab.logs, lab.slurm_conf.parent):
            folder.mkdir()
        owner = Identity.of(os.getpid())
        if owner is not None:
            lab.owner_file.write_text(json.dumps(asdict(owner)))
        return lab

    @property
    def owner_file(self) -> Path:
        """Identity of the pytest process that the lab belongs to."""
        return self.root / "owner.json"

    def folder(self, name: str, mode: int = 0o755) -> Path:
        """A folder of that name inside the lab, made if missing."""
        path = self.root / name
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(mode)
        return path

    def environment(self, **more: str) -> dict[str, str]:
        """Environment for daemons and commands of this lab: nothing is inherited."""
        return {
            "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "LC_ALL": "C.UTF-8",
            "HOME": "/root",
            "SLURM_CONF": str(self.slurm_conf),
            **more,
        }

    def remove(self) -> None:
        """End what still runs, then delete the folder."""
        for identity in recorded(self.records):
            identity.end()
        # Steps of jobs and commands of users have no record; their environment tells.
        for identity in with_environment("SLURM_CONF", str(self.slurm_conf)):
            identity.end(grace_s=1)
        LOGS.forget(self.root)
        if os.environ.get("COMET_LAB_KEEP") != "1":
            shutil.rmtree(self.root, ignore_errors=True)


def end_stale_labs(parent: Path) -> list[Path]:
    """End and remove the labs below ``parent`` whose owner no longer lives; their folders."""
    ended = []
    for root in parent.glob(f"{_PREFIX}*"):
        lab = Lab(root)
        if not lab.owner_file.exists():
            continue
        if not Identity(**json.loads(lab.owner_file.read_text())).alive():
            lab.remove()
            ended.append(root)
    return ended
