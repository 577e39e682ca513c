"""What the lab needs of its machine: a missing part fails in CI and skips elsewhere."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from typing import NoReturn

import pytest

PROGRAMS = (
    "munged",
    "mariadbd",
    "slurmctld",
    "slurmd",
    "slurmdbd",
    "sbatch",
    "sshd",
    "ssh",
    "ssh-keygen",
    "useradd",
    "node",
    "npm",
)

_HOW = "run tests/lab/install.sh as root"


def missing(sentence: str) -> NoReturn:
    """End the test that needs something: a failure where ``CI=true``, else a skip."""
    if os.environ.get("CI") == "true":
        pytest.fail(sentence, pytrace=False)
    pytest.skip(sentence)


def require_programs(names: Iterable[str] = PROGRAMS) -> None:
    """All of ``names`` must be installed, and we must be root: daemons become other users."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    absent = [name for name in names if shutil.which(name, path=path) is None]
    if absent:
        missing(f"the process lab needs {', '.join(absent)}; {_HOW}")
    if os.geteuid() != 0:
        missing("the process lab needs root, to run jobs and logins as other users")
