"""Render the job script (pure: text in, text out).

Invariants:

* no ``#SBATCH`` line: options are sbatch's arguments, because ``SBATCH_*`` variables of a
  login environment beat such lines, but not arguments;
* nothing of the configuration has a meaning for the shell: it travels as base64 in a quoted
  here-document on the starter's standard input, so it is in no argv, no environment and no
  file that another user can read (bash keeps a here-document in a pipe or an unlinked file
  of mode 0600);
* signals that Slurm sends to the batch shell alone reach the starter.
"""

from __future__ import annotations

import base64
import json
import shlex
from collections.abc import Mapping
from string import Template

# Ends the starter's source on its standard input; one line of configuration follows.
SOURCE_END = "#COMET-END-OF-STARTER"
# Ends the here-document. Not in base64's alphabet, and checked against the source.
DOCUMENT_END = "COMET_END_OF_DOCUMENT"

# EX_UNAVAILABLE, as in starter.py: the node lacks something.
_EXIT_NODE_LACKS = 69

_CHECK = "import sys; sys.exit(sys.version_info < (3, 9))"
# Runs the source from standard input and leaves the rest there. `or` ends it at end of file.
_LOADER = (
    f'import sys; end = b"{SOURCE_END}\\n"; line = sys.stdin.buffer.readline; '
    'exec(compile(b"".join(iter(lambda: line() or end, end)), "starter.py", "exec"))'
)

_HEAD = Template("""\
#!/bin/bash
# Made by jupyterhub-comet: starts a notebook and its tunnel.
# With --export=NONE the steps of this job would lose their environment without this line.
export SLURM_EXPORT_ENV=ALL
umask 077
$prologue
comet_python=$python
comet_status=0
"$$comet_python" -c '$check' </dev/null >/dev/null 2>&1 || comet_status=$lacks
[ "$$comet_status" = 0 ] || cat >&2 <<$end
comet: on node $${HOSTNAME:-?}, $$comet_python is missing or older than Python 3.9;
comet: load a newer one in the profile's prologue, or name it as the profile's python
$end
""")

# Isolated (-I): a file queue.py or http.py in the job's folder is not imported.
# exec: the starter itself becomes the batch process, which Slurm signals.
_LAST = Template("""\
[ "$$comet_status" = 0 ] || exit "$$comet_status"
exec -- "$$comet_python" -I -c '$loader' <<'$end'
$document$end
""")

# bash runs a trap only after a foreground child has ended, so the starter runs behind `wait`,
# which a trapped signal interrupts: then it is waited for again. The trap on EXIT keeps the
# starter's status whatever the epilogue does.
_BEFORE_EPILOGUE = Template("""\
if [ "$$comet_status" = 0 ]; then
  "$$comet_python" -I -c '$loader' <<'$end' &
$document$end
  comet_starter=$$!
  for comet_signal in TERM INT HUP USR1 USR2 CONT; do
    trap "comet_again=1; kill -$$comet_signal $$comet_starter 2>/dev/null || :" "$$comet_signal"
  done
  comet_again=1
  while [ -n "$$comet_again" ]; do
    comet_again=
    wait "$$comet_starter" && comet_status=0 || comet_status=$$?
  done
  trap : TERM INT HUP USR1 USR2 CONT
fi
trap 'exit "$$comet_status"' EXIT
$epilogue
""")


def render_script(
    *,
    config: Mapping[str, object],
    python: str,
    prologue: str,
    epilogue: str,
    starter_source: str,
) -> str:
    """The whole job script, for sbatch's standard input.

    Args:
        config: the job configuration that starter.py reads; any JSON object.
        python: interpreter on the node, after the prologue: a name on PATH or a path.
            The shell expands nothing in it.
        prologue: shell lines of the profile, taken as they are.
        epilogue: shell lines that run after the starter; its exit status is kept.
        starter_source: text of starter.py.

    Raises:
        ValueError: ``python`` is empty or has control characters, ``starter_source`` has a
            line that would end it early, or something is not JSON.
    """
    if not python or not python.isprintable():
        raise ValueError(f"python is {python!r}, not the name or path of an interpreter")
    head = _HEAD.substitute(
        prologue=_shell_lines(prologue),
        python=shlex.quote(python),
        check=_CHECK,
        lacks=_EXIT_NODE_LACKS,
        end=DOCUMENT_END,
    )
    tail = _BEFORE_EPILOGUE if epilogue.strip() else _LAST
    return head + tail.substitute(
        loader=_LOADER,
        end=DOCUMENT_END,
        document=_document(starter_source, config),
        epilogue=_shell_lines(epilogue),
    )


def _shell_lines(text: str) -> str:
    """Lines of shell that sbatch takes: it refuses scripts with DOS line ends."""
    return text.replace("\r\n", "\n").strip("\n")


def _document(source: str, config: Mapping[str, object]) -> str:
    """What the starter finds on its standard input: its own source, then the configuration."""
    lines = source.rstrip("\n").split("\n")
    if SOURCE_END in lines or DOCUMENT_END in lines:
        raise ValueError("the starter's source has a line that is kept for its end")
    encoded = base64.b64encode(json.dumps(dict(config)).encode("ascii")).decode("ascii")
    return "\n".join([*lines, SOURCE_END, encoded, ""])
