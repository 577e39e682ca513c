"""The job script: what is in it means nothing to the shell and to sbatch (T25, T27)."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jupyterhub_comet.slurm.script import DOCUMENT_END, SOURCE_END, render_script
from jupyterhub_comet.starter import starter_source
from tests.lab.waiting import wait_for

pytestmark = pytest.mark.unit

# Stands for the starter: writes down what it was given.
DUMP = """
import base64, os, sys
with open(os.environ["SEEN"], "wb") as file:
    file.write(base64.b64decode(sys.stdin.buffer.readline()))
assert sys.stdin.buffer.read() == b"", "something follows the configuration"
assert len(sys.argv) == 1, sys.argv
"""

HOSTILE = [
    "\n#SBATCH --account=other\n",
    "$(touch /tmp/owned)",
    "`id`",
    "'; exit 1; '",
    '"\\"',
    f"\n{DOCUMENT_END}\nexit 1\n",
    f"\n{SOURCE_END}\n",
    "\r\n",
    "\0",
    "\ud800",
    "é漢\u2028",
]
TEXT = st.one_of(st.sampled_from(HOSTILE), st.text(max_size=200))
CONFIGS = st.dictionaries(TEXT, st.one_of(TEXT, st.lists(TEXT, max_size=3)), max_size=4)


def run_script(script: str, seen: Path, **env: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "SEEN": str(seen), **env}
    return subprocess.run(
        ["/bin/bash", "-s"],
        input=script, env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def render(config: dict[str, object] | None = None, **changes: str) -> str:
    parts = {"python": sys.executable, "prologue": "", "epilogue": "", "starter_source": DUMP}
    return render_script(config=config or {}, **{**parts, **changes})  # type: ignore[arg-type]


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(config=CONFIGS, epilogue=st.sampled_from(["", "true"]))
def test_T27_configuration_arrives_whole_and_means_nothing_to_the_shell(
    tmp_path: Path, config: dict[str, object], epilogue: str
) -> None:
    script = render(config, epilogue=epilogue)
    assert "#SBATCH" not in script
    assert script.startswith("#!/bin/bash\n")
    checked = subprocess.run(
        ["/bin/bash", "-n"], input=script, text=True, capture_output=True, check=False
    )
    assert (checked.returncode, checked.stderr) == (0, "")
    done = run_script(script, tmp_path / "seen")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert json.loads((tmp_path / "seen").read_text()) == config


@pytest.mark.parametrize("python", ["a b", "$(touch owned)", "x'y", "-c", "python3;exit 0"])
def test_T27_a_python_that_does_not_exist_is_one_word_and_a_sentence(
    tmp_path: Path, python: str
) -> None:
    done = run_script(render(python=python), tmp_path / "seen")
    assert done.returncode == 69
    assert f"{python} is missing or older than Python 3.9" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("python", ["", "python3\nid", "a\0b"])
def test_python_that_is_no_name_is_refused(python: str) -> None:
    with pytest.raises(ValueError, match="not the name or path"):
        render(python=python)


@pytest.mark.parametrize("mark", [SOURCE_END, DOCUMENT_END])
def test_source_that_would_end_early_is_refused(mark: str) -> None:
    with pytest.raises(ValueError, match="kept for its end"):
        render(starter_source=f"x = 1\n{mark}\n")


def test_an_old_python_is_refused_by_name(tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")  # what `sys.exit(version < (3, 9))` gives there
    old.chmod(0o755)
    done = run_script(render(python=str(old)), tmp_path / "seen")
    assert done.returncode == 69
    assert "profile's prologue" in done.stderr


def test_real_starter_runs_from_the_script_and_names_a_bad_configuration(tmp_path: Path) -> None:
    done = run_script(render({"a": 1}, starter_source=starter_source()), tmp_path / "seen")
    assert done.returncode == 78
    assert re.fullmatch(
        r"comet 00:00:0\d stopping: the job's configuration cannot be read \(KeyError\)\n",
        done.stderr,
    )


def test_T25_nothing_of_the_configuration_is_in_argv_or_environment(tmp_path: Path) -> None:
    look = (
        'import os\nseen = open("/proc/self/cmdline").read() + open("/proc/self/environ").read()\n'
        'open(os.environ["SEEN"], "w").write(seen)\n'
    )
    done = run_script(render({"key": "canary"}, starter_source=look), tmp_path / "seen")
    assert done.returncode == 0, done.stderr
    seen = (tmp_path / "seen").read_text()
    assert "canary" not in seen
    assert "eyJrZXki" not in seen, "the configuration's base64"


def test_modules_of_the_job_folder_are_not_imported(tmp_path: Path) -> None:
    (tmp_path / "base64.py").write_text("raise SystemExit('taken from the home folder')\n")
    done = run_script("cd " + str(tmp_path) + "\n" + render({"a": 1}), tmp_path / "seen")
    assert done.returncode == 0, done.stderr


def test_steps_keep_their_environment_and_files_are_private(tmp_path: Path) -> None:
    look = 'import os\nopen(os.environ["SEEN"], "w").write(os.environ["SLURM_EXPORT_ENV"])\n'
    assert run_script(render(starter_source=look), tmp_path / "seen").returncode == 0
    assert (tmp_path / "seen").read_text() == "ALL"
    assert (tmp_path / "seen").stat().st_mode & 0o777 == 0o600


def test_prologue_runs_as_it_is_and_dos_line_ends_are_taken(tmp_path: Path) -> None:
    prologue = 'export A="a b"\r\nexport B=$A\r\n'
    look = 'import os\nopen(os.environ["SEEN"], "w").write(os.environ["B"])\n'
    script = render(prologue=prologue, starter_source=look)
    assert "\r" not in script
    assert run_script(script, tmp_path / "seen").returncode == 0
    assert (tmp_path / "seen").read_text() == "a b"


@pytest.mark.parametrize("prologue", ["", "set -eu"], ids=["plain", "strict shell"])
@pytest.mark.parametrize(
    "epilogue", ["echo epilogue", "echo epilogue; exit 5", "echo epilogue; false"]
)
def test_epilogue_runs_and_the_starters_status_is_kept(
    tmp_path: Path, prologue: str, epilogue: str
) -> None:
    script = render(
        prologue=prologue, epilogue=epilogue, starter_source="import sys\nsys.exit(42)\n"
    )
    done = run_script(script, tmp_path / "seen")
    assert done.returncode == 42, done.stderr
    assert done.stdout == "epilogue\n"


@pytest.mark.parametrize("epilogue", ["", "echo epilogue"], ids=["without", "with epilogue"])
def test_signals_to_the_batch_shell_reach_the_starter(tmp_path: Path, epilogue: str) -> None:
    source = """
import os, signal, sys, time
seen = []
for name in ("SIGUSR1", "SIGCONT", "SIGTERM"):
    signal.signal(getattr(signal, name), lambda number, _: seen.append(number))
open(os.environ["SEEN"], "w").write("ready")
deadline = time.monotonic() + 30
while signal.SIGTERM not in seen and time.monotonic() < deadline:
    time.sleep(0.02)
    open(os.environ["SEEN"], "w").write(repr([signal.Signals(n).name for n in seen]) or "ready")
time.sleep(0.2)  # the shell must wait for it after the signal
sys.exit(7)
"""
    seen = tmp_path / "seen"
    script = tmp_path / "script"
    script.write_text(render(epilogue=epilogue, starter_source=source))
    process = subprocess.Popen(
        ["/bin/bash", str(script)],
        env={"PATH": os.environ["PATH"], "SEEN": str(seen)}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        wait_for(seen.exists, "the starter", limit_s=10)
        for number in (signal.SIGUSR1, signal.SIGCONT):
            process.send_signal(number)
            wait_for(lambda n=number: n.name in seen.read_text(), number.name, limit_s=10)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 7
    assert out == ("epilogue\n" if epilogue else "")
