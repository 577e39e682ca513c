"""The one remote command line, read by every login shell that a site may give its users.

sshd runs ``$SHELL -c COMMAND``; so does this test.
"""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from jupyterhub_comet.transport.wrapper import COMMAND, parse_output, render_input

pytestmark = pytest.mark.integration

MARK = "0123456789abcdef"
WORDS = ["a b", "it's", 'say "x"', "$HOME", "`id`", "!!", "back\\slash", "*", "", "\x1f|", "é"]


def run(
    shell: str,
    argv: list[str],
    *,
    stdin: str = "",
    cut: int = 0,
    timeout_s: float = 5,
    command: str = COMMAND,
) -> tuple[int, str] | None:
    program = shutil.which(shell)
    if program is None:
        if os.environ.get("CI"):
            pytest.fail(f"{shell} is not installed")
        pytest.skip(f"{shell} is not installed")
    body = render_input(argv, stdin=stdin, mark=MARK, timeout_s=timeout_s)
    done = subprocess.run(
        [program, "-c", command],
        input=body[: len(body) - cut],
        stdout=subprocess.PIPE,
        # As from sshd, with what dot files may add (T44).
        env={
            "HOME": "/tmp",
            "USER": "somebody",
            "PATH": "/usr/bin:/bin",
            "SQUEUE_FORMAT": "%u",
            "SBATCH_PARTITION": "secret",
        },
        timeout=30,
        check=False,
    )
    return parse_output(done.stdout, MARK)


@pytest.fixture(params=["sh", "bash", "dash", "ksh", "zsh", "csh", "tcsh", "fish"])
def shell(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_every_argument_arrives_as_it_is(shell: str) -> None:
    found = run(shell, ["/usr/bin/printf", "<%s>\\n", *WORDS])
    assert found == (0, "".join(f"<{word}>\n" for word in WORDS))


def test_input_arrives_to_its_last_byte(shell: str) -> None:
    script = "#!/bin/sh\necho '$HOME' \"!\" \\n é\n\n\n" * 2000
    assert run(shell, ["/usr/bin/cat"], stdin=script) == (0, script)


def test_half_sent_input_runs_nothing(shell: str) -> None:
    assert run(shell, ["/usr/bin/cat"], stdin="#!/bin/sh\necho half\n", cut=5) is None


def test_exit_status_and_output_without_a_line_end(shell: str) -> None:
    assert run(shell, ["/bin/sh", "-c", "printf out; exit 3"]) == (3, "out")


def test_T44_environment_is_made_from_nothing(shell: str) -> None:
    found = run(shell, ["/usr/bin/env"])
    assert found is not None
    names = {line.partition("=")[0] for line in found[1].splitlines()}
    assert names - {"PWD", "OLDPWD", "SHLVL", "_", "A__z"} == {
        "HOME", "USER", "LOGNAME", "PATH", "LC_ALL", "TZ", "SLURM_TIME_FORMAT",
    }  # fmt: skip
    assert "HOME=/tmp" in found[1].splitlines()


def test_command_that_takes_too_long_is_stopped(shell: str) -> None:
    assert run(shell, ["/usr/bin/sleep", "60"], timeout_s=1) == (124, "")


def test_program_means_the_same_where_sh_is_bash() -> None:
    command = COMMAND.replace("/bin/sh", "/bin/bash --posix")
    found = run("bash", ["/usr/bin/printf", "<%s>", *WORDS], command=command)
    assert found == (0, "".join(f"<{word}>" for word in WORDS))
    assert run("bash", ["/usr/bin/cat"], stdin="é\n\n", command=command) == (0, "é\n\n")
