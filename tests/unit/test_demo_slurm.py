"""The demo cluster's entry point: what it writes and how it watches its daemons."""

import importlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

pytestmark = pytest.mark.unit

SLURM = Path(__file__).parents[2] / "images" / "slurm"
TEMPLATES = SLURM / "etc"


@pytest.fixture(scope="module")
def demo() -> Iterator[SimpleNamespace]:
    """Import demo_slurm from where it lives: in the image it is on the system's own path."""
    sys.path.insert(0, str(SLURM))
    names = ("commands", "files", "supervisor")
    yield SimpleNamespace(**{name: importlib.import_module(f"demo_slurm.{name}") for name in names})
    sys.path.remove(str(SLURM))


def test_slurm_conf_names_each_node_once(demo: SimpleNamespace) -> None:
    settings = demo.files.parse_environment({"NODE_COUNT": "3", "NODE_DOMAIN": "nodes"})
    values = {"controller_host": "login", "nodes": demo.files.render_nodes(settings)}
    text = demo.files.render(TEMPLATES / "slurm.conf", values)
    assert re.findall(r"^NodeName=(comet-\S+) NodeAddr=(\S+)$", text, re.M) == [
        (f"comet-node-{n}", f"comet-node-{n}.nodes") for n in range(3)
    ]
    assert "SlurmctldHost=login\n" in text
    assert "AccountingStorageHost=login\n" in text
    assert "$" not in text


def test_slurm_conf_has_the_partitions_of_the_2016_form() -> None:
    text = (TEMPLATES / "slurm.conf").read_text()
    partitions = dict(re.findall(r"^PartitionName=(\S+) (.*)$", text, re.M))
    assert partitions.keys() == {"DEFAULT", "compute", "shared", "gpu", "gpu-shared"}
    assert "MaxTime=48:00:00" in partitions["DEFAULT"]
    assert "Default=YES OverSubscribe=EXCLUSIVE" in partitions["compute"]
    assert "EXCLUSIVE" not in partitions["shared"] + partitions["gpu-shared"]


@pytest.mark.parametrize("path", sorted(TEMPLATES.iterdir()), ids=lambda path: path.name)
def test_template_needs_only_what_the_entry_point_knows(demo: SimpleNamespace, path: Path) -> None:
    values = {"controller_host": "login", "nodes": "", "storage_password": "x" * 16}
    assert demo.files.render(path, values)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("NODE_COUNT", "0"),
        ("NODE_COUNT", "two"),
        ("NODE_COUNT", ""),
        ("NODE_DOMAIN", "nodes\nSlurmUser=root"),
        ("CONTROLLER_HOST", "-x"),
    ],
)
def test_unusable_environment_is_refused_by_name(
    demo: SimpleNamespace, variable: str, value: str
) -> None:
    with pytest.raises(demo.commands.DemoBroken, match=variable):
        demo.files.parse_environment({variable: value})


def test_environment_may_be_empty(demo: SimpleNamespace) -> None:
    settings = demo.files.parse_environment({})
    assert settings == demo.files.Settings(2, "comet-node", "comet-login")


def test_login_node_takes_certificates_and_nothing_else() -> None:
    text = (TEMPLATES / "sshd_config").read_text()
    said = dict(line.split(maxsplit=1) for line in text.splitlines() if line and line[0] != "#")
    assert said["AuthenticationMethods"] == "publickey"
    assert said["AuthorizedKeysFile"] == "none"
    assert said["TrustedUserCAKeys"] == "/etc/comet-login/ca.pub"
    assert said["PasswordAuthentication"] == said["KbdInteractiveAuthentication"] == "no"
    assert said["PermitRootLogin"] == "no"
    assert said["DisableForwarding"] == "yes"
    assert said["AllowUsers"].split() == ["alice", "bob", "jhquery"]


def _still_runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_supervisor_ends_all_when_one_ends(
    demo: SimpleNamespace, capfd: pytest.CaptureFixture[str]
) -> None:
    supervisor = demo.supervisor.Supervisor()
    lasting = ["sh", "-c", "echo $$; exec sleep 300"]
    try:
        supervisor.start(demo.supervisor.Daemon("lasting", lasting, lambda: True))
        supervisor.start(demo.supervisor.Daemon("short", ["sleep", "0.3"], lambda: True))
        with pytest.raises(demo.commands.DemoBroken, match="short ended with 0"):
            supervisor.watch()
    finally:
        supervisor.stop_all()
    printed = capfd.readouterr().out
    pid = int(re.findall(r"^lasting: (\d+)$", printed, re.M)[0])
    assert not _still_runs(pid)
    assert "demo-slurm: lasting ended with -15" in printed


def test_daemon_that_ends_before_it_answers_is_named(demo: SimpleNamespace) -> None:
    supervisor = demo.supervisor.Supervisor()
    broken = demo.supervisor.Daemon("broken", ["sh", "-c", "exit 3"], lambda: False)
    with pytest.raises(demo.commands.DemoBroken, match="broken ended with 3"):
        supervisor.start(broken)
    supervisor.stop_all()


def test_daemon_that_never_answers_is_given_up(demo: SimpleNamespace) -> None:
    supervisor = demo.supervisor.Supervisor()
    mute = demo.supervisor.Daemon("mute", ["sleep", "300"], lambda: False, ready_limit_s=0.5)
    with pytest.raises(demo.commands.DemoBroken, match="mute did not answer within"):
        supervisor.start(mute)
    supervisor.stop_all()


@pytest.mark.parametrize("content", [b"short", b"has space in it, long", b"quote'quote'quote'"])
def test_password_that_needs_quoting_is_refused(demo: SimpleNamespace, content: bytes) -> None:
    with pytest.raises(demo.commands.DemoBroken, match="slurmdbd-password must be"):
        demo.files.parse_password(content)


def test_password_may_end_with_a_newline(demo: SimpleNamespace) -> None:
    assert demo.files.parse_password(b"0123456789abcdef\n") == "0123456789abcdef"
