"""Everything that a role writes before its daemons start: keys, configuration, folders, homes.

Secrets are mounted readable only by root; each daemon gets a copy, owned and moded as it wants.
"""

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template

from demo_slurm.commands import DemoBroken, run

TEMPLATES = Path("/usr/local/share/demo-slurm")
SECRETS = Path("/etc/comet-demo")
STATE = Path("/var/lib/comet-demo")
LOGIN_CA = Path("/etc/comet-login/ca.pub")
GPUS = Path("/run/comet-demo")  # gres.conf names the four devices in it
USERS = ("alice", "bob", "jhquery")  # made by the Dockerfile
HOST_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
PASSWORD = re.compile(r"[A-Za-z0-9_-]{16,128}")  # needs no quoting in SQL or slurmdbd.conf


@dataclass(frozen=True)
class Settings:
    """What the environment says; the README lists the names."""

    node_count: int
    node_domain: str
    controller_host: str


def parse_environment(environment: Mapping[str, str]) -> Settings:
    """Read the settings.

    Raises:
        DemoBroken: a value is not usable; the message names the variable.
    """
    count = environment.get("NODE_COUNT", "2")
    if not re.fullmatch(r"[1-9][0-9]{0,2}", count):
        raise DemoBroken(f"NODE_COUNT is {count!r}; it must be a number from 1 to 999")
    names = {}
    for variable, default in (("NODE_DOMAIN", "comet-node"), ("CONTROLLER_HOST", "comet-login")):
        names[variable] = environment.get(variable, default)
        if not HOST_LABEL.fullmatch(names[variable]):
            raise DemoBroken(f"{variable} is {names[variable]!r}; it must be the name of a Service")
    return Settings(int(count), names["NODE_DOMAIN"], names["CONTROLLER_HOST"])


def render_nodes(settings: Settings) -> str:
    """Return one NodeName line for each pod of the StatefulSet."""
    return "\n".join(
        f"NodeName=comet-node-{n} NodeAddr=comet-node-{n}.{settings.node_domain}"
        for n in range(settings.node_count)
    )


def render(template: Path, values: Mapping[str, str]) -> str:
    """Fill in a template's $names.

    Raises:
        DemoBroken: it is missing, or has a name without a value.
    """
    try:
        return Template(template.read_text()).substitute(values)
    except (OSError, KeyError, ValueError) as exc:
        raise DemoBroken(f"{template} cannot be filled in: {exc}") from exc


def write(path: Path, content: bytes, *, owner: str, mode: int) -> None:
    """Write a file that never, not even for a moment, is readable by more than mode says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        shutil.chown(path, owner, owner)
        path.chmod(mode)


def make_folder(path: Path, *, owner: str, mode: int) -> None:
    """Make a folder, or put an existing one right."""
    path.mkdir(parents=True, exist_ok=True)
    shutil.chown(path, owner, owner)
    path.chmod(mode)


def read_secret(name: str) -> bytes:
    """Return one key of the mounted Secret.

    Raises:
        DemoBroken: it is missing or empty.
    """
    path = SECRETS / name
    try:
        content = path.read_bytes()
    except OSError as exc:
        raise DemoBroken(f"{path} cannot be read: {exc}; mount Secret comet-demo") from exc
    if not content:
        raise DemoBroken(f"{path} is empty; delete Secret comet-demo and run the keys hook")
    return content


def parse_password(content: bytes) -> str:
    """Return slurmdbd's password for MariaDB.

    Raises:
        DemoBroken: it has characters that would need quoting, or too few.
    """
    password = content.decode(errors="replace").rstrip("\n")
    if not PASSWORD.fullmatch(password):
        raise DemoBroken("slurmdbd-password must be 16 to 128 letters, digits, '-' or '_'")
    return password


def prepare_munge() -> None:
    """Put the shared key and munged's folders in place."""
    key = read_secret("munge.key")
    if not 32 <= len(key) <= 1024:
        raise DemoBroken(f"munge.key has {len(key)} bytes; munge wants 32 to 1024")
    write(Path("/etc/munge/munge.key"), key, owner="munge", mode=0o400)
    make_folder(Path("/run/munge"), owner="munge", mode=0o755)


def prepare_homes() -> None:
    """Make the users' home folders: on a fresh volume, or in a fresh container, there are none."""
    for user in USERS:
        home = Path("/home") / user
        if not home.exists():
            shutil.copytree("/etc/skel", home)
            for path in (home, *home.rglob("*")):
                shutil.chown(path, user, user)
            home.chmod(0o700)


def record_login_environments() -> None:
    """Write down what each user's login shell exports, where slurmd looks for --export=NONE."""
    cache = STATE / "slurmctld" / "env_cache"
    make_folder(cache, owner="root", mode=0o755)
    for user in USERS:
        exported = run(["su", "-", user, "-c", "/usr/bin/env"])
        write(cache / user, exported.encode(), owner="root", mode=0o644)


def prepare_controller(settings: Settings) -> None:
    """Write everything that the daemons of the login node read."""
    prepare_munge()
    prepare_homes()
    make_folder(STATE / "slurmctld", owner="slurm", mode=0o700)
    make_folder(Path("/run/slurm"), owner="slurm", mode=0o755)
    make_folder(Path("/run/mysqld"), owner="mysql", mode=0o755)
    make_folder(Path("/run/sshd"), owner="root", mode=0o755)
    values = {
        "controller_host": settings.controller_host,
        "nodes": render_nodes(settings),
        "storage_password": parse_password(read_secret("slurmdbd-password")),
    }
    for name in ("slurm.conf", "gres.conf", "cgroup.conf"):
        text = render(TEMPLATES / name, values)
        write(Path("/etc/slurm") / name, text.encode(), owner="root", mode=0o644)
    text = render(TEMPLATES / "slurmdbd.conf", values)
    write(Path("/etc/slurm/slurmdbd.conf"), text.encode(), owner="slurm", mode=0o600)
    host_key = read_secret("ssh_host_ed25519_key")
    write(Path("/etc/ssh/comet_host_ed25519_key"), host_key, owner="root", mode=0o600)
    if not LOGIN_CA.is_file():
        raise DemoBroken(f"{LOGIN_CA} is missing; mount key ca.pub of Secret comet-login")


def prepare_compute() -> None:
    """Write what slurmd needs before it fetches its configuration from slurmctld."""
    prepare_munge()
    prepare_homes()
    make_folder(Path("/run/slurm"), owner="root", mode=0o755)
    make_folder(Path("/var/spool/slurmd"), owner="root", mode=0o755)
    make_folder(GPUS, owner="root", mode=0o755)
    for number in range(4):
        gpu = GPUS / f"gpu{number}"
        gpu.unlink(missing_ok=True)
        gpu.symlink_to("/dev/null")
    record_login_environments()
