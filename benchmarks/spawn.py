"""From the request for a server to its first answer, against a bare sbatch of the notebook.

Both run on the same node of the same real Slurm. The stock side is what a researcher does by
hand: sbatch a script that starts JupyterLab, and ask its port until it answers. Ours adds the
hub, the tunnel and the proxy.
"""

from __future__ import annotations

import contextlib
import time
import urllib.request
from collections.abc import Iterator

from tests.lab.folder import Lab
from tests.lab.keys import CertificateAuthority
from tests.lab.login import LoginNode
from tests.lab.ports import free_port
from tests.lab.shims import Shims
from tests.lab.slurm import Slurm
from tests.lab.stack import Stack
from tests.lab.waiting import wait_for

from .report import Measured

RUNS = 5
_LIMIT_S = 90


@contextlib.contextmanager
def running_stack() -> Iterator[Stack]:
    """A whole lab for the time of one benchmark."""
    lab = Lab.create()
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(lab.remove)
        slurm = Slurm(lab)
        cleanup.callback(slurm.stop)
        slurm.start()
        login = LoginNode(lab, CertificateAuthority(lab.root / "login-ca"), Shims(lab))
        cleanup.callback(login.stop)
        login.start()
        stack = Stack(lab, slurm, login)
        cleanup.callback(stack.stop)
        stack.start()
        yield stack


async def measure() -> Measured:
    """Seconds to the first answer; the two in turn, so that both meet the same machine."""
    ours, stock = [], []
    with running_stack() as stack:
        for _ in range(RUNS):
            stock.append(_bare_sbatch(stack))
            ours.append(await _server(stack))
    return Measured(ours, stock, "seconds to the first answer")


async def _server(stack: Stack) -> float:
    begun = time.monotonic()
    await stack.hub.start_server("alice", {"profile": "shared", "walltime": "00:10:00"})
    await stack.hub.wait_ready("alice", limit_s=_LIMIT_S)
    seconds = time.monotonic() - begun
    await stack.hub.stop_all()
    stack.slurm.cancel_all("alice")
    return seconds


def _bare_sbatch(stack: Stack) -> float:
    port = free_port()
    script = (
        "#!/bin/bash\n"
        f"export PATH={stack.node_environment}/bin:$PATH\n"
        f"exec jupyter lab --no-browser --ip=127.0.0.1 --port={port} --ServerApp.token=bench\n"
    )
    begun = time.monotonic()
    done = stack.login.run(
        "alice", "sbatch --parsable --partition=shared --time=10 --output=/dev/null", stdin=script
    )
    if done.returncode != 0:
        raise RuntimeError(f"sbatch: {done.stderr}")
    wait_for(lambda: _answers(port), "the bare notebook", limit_s=_LIMIT_S)
    seconds = time.monotonic() - begun
    stack.slurm.cancel_all("alice")
    return seconds


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
