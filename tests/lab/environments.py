"""Python and Node environments of the lab, built once into a cache outside the checkout.

Keyed by the content of their lock file, so that a new lock makes a new environment and an old
checkout still finds its own. Users of the lab must be able to run the notebook, so everything
is made by the distribution's Python (an interpreter below /root is closed to them) in a folder
that everybody may read.

``python -m tests.lab.environments`` builds all of them.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from .waiting import LabBroken

# Line of JupyterHub to the version that stands for it.
HUB_VERSIONS: Mapping[str, str] = MappingProxyType({"5.5": "5.5.4", "6.1": "6.1.1"})

_HERE = Path(__file__).parent
CHECKOUT = _HERE.parents[1]
_SYSTEM_PYTHON = "/usr/bin/python3"
_BUILD_LIMIT_S = 900

Say = Callable[[str], None]


def cache_folder() -> Path:
    """The build cache; users of the lab may pass through it."""
    path = Path(os.environ.get("COMET_CACHE", "/var/cache/jupyterhub-comet"))
    path.mkdir(parents=True, exist_ok=True)
    return path


def node_environment(line: str, say: Say = print) -> Path:
    """The venv of notebooks on compute nodes, for the hub's line ``5.5`` or ``6.1``."""
    version = HUB_VERSIONS[line]
    return _venv(f"node-{version}", _HERE / f"node-{version}.txt", say)


def hub_python(line: str, say: Say = print) -> Path:
    """The Python that runs the hub: the tests' own for 5.5, a venv of its own for 6.1.

    The venv lacks our package; the hub finds it by PYTHONPATH, since the cache outlives
    this checkout.
    """
    if line == "5.5":
        return Path(sys.executable)
    version = HUB_VERSIONS[line]
    return _venv(f"hub-{version}", _HERE / f"hub-{version}.txt", say) / "bin" / "python3"


def proxy_program(say: Say = print) -> Path:
    """configurable-http-proxy, installed by npm as its lock file says."""
    sources = [_HERE / "proxy" / name for name in ("package.json", "package-lock.json")]

    def build(target: Path) -> None:
        target.mkdir()
        for source in sources:
            shutil.copy(source, target)
        _run(["npm", "ci", "--no-audit", "--no-fund", "--prefix", str(target)], cwd=target)

    folder = _built("proxy", sources, build, say)
    return folder / "node_modules" / ".bin" / "configurable-http-proxy"


def _venv(name: str, lock: Path, say: Say) -> Path:
    def build(target: Path) -> None:
        _run([_SYSTEM_PYTHON, "-m", "venv", str(target)])
        python = str(target / "bin" / "python3")
        uv = _uv()
        # Bytecode now: the users may not write it, and would compile at every start.
        if uv:
            _run([uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", python,
                  "--requirement", str(lock)])  # fmt: skip
        else:
            _run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
                  "--requirement", str(lock)])  # fmt: skip

    return _built(name, [lock], build, say)


def _uv() -> str | None:
    beside = Path(sys.executable).with_name("uv")
    return str(beside) if beside.exists() else shutil.which("uv")


def _built(name: str, sources: Sequence[Path], build: Callable[[Path], None], say: Say) -> Path:
    """``cache/NAME-HASH``, built if it is not complete; two builders at once take turns."""
    digest = hashlib.sha256(b"\0".join(source.read_bytes() for source in sources)).hexdigest()
    target = cache_folder() / f"{name}-{digest[:12]}"
    complete = target / ".complete"
    if complete.exists():
        return target
    with target.with_name(f"{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if complete.exists():
            return target
        shutil.rmtree(target, ignore_errors=True)
        say(f"building {target} (once)")
        begin = time.monotonic()
        # Readable by the lab's users, whatever the caller's umask is.
        before = os.umask(0o022)
        try:
            build(target)
        finally:
            os.umask(before)
        complete.touch()
        say(f"built {target.name} in {time.monotonic() - begin:.0f} s")
    return target


def _run(argv: Sequence[str], cwd: Path | None = None) -> None:
    done = subprocess.run(
        list(argv),
        cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=_BUILD_LIMIT_S, check=False,
    )  # fmt: skip
    if done.returncode:
        raise LabBroken(f"{' '.join(argv)}: {(done.stderr or done.stdout)[-3000:]}")


def build_all(say: Say = print) -> None:
    """Build whatever is missing."""
    for line in HUB_VERSIONS:
        node_environment(line, say)
        hub_python(line, say)
    proxy_program(say)


if __name__ == "__main__":
    build_all()
