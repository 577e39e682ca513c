"""What runs on the compute node: one notebook and its tunnel, for as long as the job lives.

The modules here are carried inside the job script as one text, so they import the standard
library and each other only, run on Python 3.9 and newer, and share no top-level names.
Invariants of the running starter:

* notebook and kernels listen on Unix sockets in a folder of mode 0700, never on TCP;
* the loopback port for the hub's API is held for the job's whole life, serves only processes
  of this user, and only paths under the hub's API prefix;
* no secret is in an argv, in the log, or in the environment of the notebook beyond what
  JupyterHub itself puts there; the tunnel's key is only in the private folder;
* ssh that ends is started again for ever; a notebook that ends, ends the job with its status;
* every refusal is one sentence in the job's output.
"""

from __future__ import annotations

import ast
from functools import cache
from importlib.resources import files

# Each may use the ones before it.
_PARTS = ("base", "relay", "tunnel", "notebook", "job")


@cache
def starter_source() -> str:
    """The modules as one program that reads the job configuration from standard input."""
    texts = [(files(__name__) / f"{part}.py").read_text(encoding="ascii") for part in _PARTS]
    return "from __future__ import annotations\n\n" + "\n\n".join(map(_without_joints, texts))


def _without_joints(text: str) -> str:
    """A module's text without imports of its siblings and without `from __future__`."""
    lines = text.splitlines()
    for node in ast.parse(text).body:
        if isinstance(node, ast.ImportFrom) and (node.level or node.module == "__future__"):
            assert node.end_lineno is not None  # noqa: S101 (ast.parse always sets it)
            lines[node.lineno - 1 : node.end_lineno] = [""] * (node.end_lineno - node.lineno + 1)
    return "\n".join(lines) + "\n"
