"""comet.yaml: clusters, profiles, the gateway and where keys are mounted.

The chart renders this file from its values into the Secret ``comet-settings``; the keys are
the values' own (camelCase). Unknown keys are errors, and an error names the key. The file is
read again when it changes, so that profiles change under running servers; a file that turned
bad keeps the last good one.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel

from .errors import SettingsBroken

log = logging.getLogger(__name__)

DEFAULT_PATH = Path("/etc/jupyterhub-comet/settings/comet.yaml")

_WALLTIME = re.compile(r"(?:(?P<d>\d{1,3})-)?(?P<h>\d{1,4}):(?P<m>[0-5]\d):(?P<s>[0-5]\d)")


def walltime_seconds(text: str) -> int:
    """Seconds of ``[D-]HH:MM:SS``, the form in which sbatch prints a time limit.

    Raises:
        ValueError: for any other text, or no time at all.
    """
    match = _WALLTIME.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a walltime; write HH:MM:SS or D-HH:MM:SS")
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    if total == 0:
        raise ValueError("a walltime of no time at all")
    return total


def _check_walltime(text: str) -> str:
    walltime_seconds(text)
    return text


Walltime = Annotated[str, AfterValidator(_check_walltime)]


class Model(BaseModel):
    """Base of all settings: frozen, camelCase in YAML, unknown keys refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True
    )


class LoginSettings(Model):
    """How the hub logs in on a cluster, as the user, by a certificate of the login CA."""

    hosts: list[str] = Field(
        min_length=1,
        description="Login hosts, `host` or `host:port`, tried in this order when one is down.",
    )
    known_hosts: str = Field(
        "", description="known_hosts lines that pin the login hosts' keys (or their CA)."
    )
    known_hosts_file: str = Field(
        "", description="A file with known_hosts lines, read at each connection, instead."
    )
    source_addresses: list[str] = Field(
        default_factory=list,
        description="Addresses or networks the hub connects from; written into each certificate.",
    )
    force_command: str = Field(
        "", description="The only command a login may run, on the login node; empty: any."
    )
    connect_timeout_seconds: float = Field(10, gt=0)
    idle_seconds: float = Field(
        120, gt=0, description="A kept connection without a command is closed after this long."
    )
    max_connections: int = Field(50, gt=0, description="Kept connections, all accounts together.")

    @model_validator(mode="after")
    def _hosts_are_pinned(self) -> LoginSettings:
        if bool(self.known_hosts) == bool(self.known_hosts_file):
            raise ValueError(
                "exactly one of knownHosts and knownHostsFile is needed: "
                "the hub never trusts a login host that it cannot recognise"
            )
        return self


class ClusterSettings(Model):
    """One Slurm cluster."""

    title: str = ""
    login: LoginSettings
    query_account: str = Field(
        description="Unprivileged account whose one squeue serves everybody's poll."
    )
    slurm_path: str = Field("/usr/bin", description="Folder of sbatch, squeue, ... on the hosts.")
    poll_seconds: float = Field(10, gt=0, description="Seconds between two squeue calls.")
    command_timeout_seconds: float = Field(20, gt=0)
    grace_seconds: float = Field(
        60,
        gt=0,
        description="A job that Slurm no longer knows and whose tunnel is down is given up "
        "after this long, and not before two healthy answers.",
    )
    max_submits: int = Field(8, gt=0, description="sbatch calls in flight at a time.")


class Counts(Model):
    """How many of something one may ask for."""

    choices: list[int] = Field(min_length=1)
    default: int = 0

    @model_validator(mode="before")
    @classmethod
    def _first_is_default(cls, data: object) -> object:
        if isinstance(data, dict) and data.get("choices") and data.get("default") is None:
            return {**data, "default": data["choices"][0]}
        return data

    @model_validator(mode="after")
    def _default_is_offered(self) -> Counts:
        if any(choice < 1 for choice in self.choices):
            raise ValueError("choices are whole numbers from 1 up")
        if self.default not in self.choices:
            raise ValueError(f"default {self.default} is not among choices {self.choices}")
        return self


class Walltimes(Model):
    """Which walltimes one may ask for."""

    choices: list[Walltime] = Field(min_length=1)
    default: Walltime = ""

    @model_validator(mode="before")
    @classmethod
    def _first_is_default(cls, data: object) -> object:
        if isinstance(data, dict) and data.get("choices") and not data.get("default"):
            return {**data, "default": data["choices"][0]}
        return data

    @model_validator(mode="after")
    def _default_is_offered(self) -> Walltimes:
        if self.default not in self.choices:
            raise ValueError(f"default {self.default} is not among choices {self.choices}")
        return self


class Accounts(Model):
    """Which Slurm account (allocation) a job may be charged to."""

    default: str = Field("", description="Empty: the user's default account in Slurm.")
    choices: list[str] = Field(
        default_factory=list,
        description="Empty: any account name; Slurm decides whether the user may charge it.",
    )


class Profile(Model):
    """What a researcher may choose: one kind of node with its limits."""

    title: str
    description: str = ""
    cluster: str
    partition: str = Field("", description="Empty: req_partition, else the cluster's default.")
    nodes: int = Field(1, gt=0)
    cores: Counts | None = Field(None, description="Cores of the job; absent: Slurm decides.")
    memory_mb: int | None = Field(None, gt=0, description="Memory of the job, MiB.")
    gpus: Counts | None = Field(None, description="GPUs of the job; absent: none.")
    gpu_type: str = Field("", description="GRES type, as in gpu:v100:1; empty: any.")
    walltime: Walltimes
    account: Accounts = Accounts()
    qos: str = ""
    reservation: str = ""
    exclusive: bool = False
    extra_options: list[str] = Field(
        default_factory=list, description="More sbatch arguments, one a list item."
    )
    python: str = Field(
        "python3", description="Interpreter of the starter on the node, after the prologue."
    )
    command: list[str] = Field(
        ["jupyterhub-singleuser"],
        min_length=1,
        description="The notebook; it gets its Unix socket added. Kernels listen on Unix sockets "
        "too; where they cannot, --KernelManager.transport=tcp is named here.",
    )
    environment: dict[str, str] = Field(default_factory=dict)
    prologue: str = Field("", description="Shell lines before the notebook: module load ...")
    epilogue: str = Field("", description="Shell lines after the notebook's end.")


class PortRange(Model):
    """Listen ports of the gateway, one per server, below the ephemeral range (32768)."""

    first: int = Field(20000, ge=1024, le=65535)
    last: int = Field(29999, ge=1024, le=65535)

    @model_validator(mode="after")
    def _ordered(self) -> PortRange:
        if self.last < self.first:
            raise ValueError(f"last {self.last} is below first {self.first}")
        return self


class GatewaySettings(Model):
    """What jobs dial and what the hub believes of tunnelbot."""

    hostname: str = Field(min_length=1, description="Name or address that compute nodes dial.")
    port: int = Field(22, ge=1, le=65535)
    host_key_alias: str = Field(
        "comet-tunnelbot", description="Name in the gateway's host certificate."
    )
    pod_service: str = Field(
        "tunnelbot-pods", description="DNS name whose addresses are those of tunnelbot's pods."
    )
    port_range: PortRange = PortRange()
    quarantine_seconds: float = Field(
        600, ge=0, description="A port is not given to another server for this long."
    )
    silence_seconds: float = Field(
        60, gt=0, description="A pod that has not reported for this long holds no tunnels."
    )
    key_type: str = Field("ed25519", pattern="^(ed25519|ecdsa-p256)$")
    proxy_command: str = Field(
        "", description="ssh ProxyCommand on nodes that reach the gateway only by a proxy."
    )


class SpawnSettings(Model):
    """Time limits of a server's start and its number per person."""

    pending_limit_seconds: int = Field(86400, gt=0, description="Longest wait in the queue.")
    answer_limit_seconds: int = Field(
        300, gt=0, description="From the job's first second to the notebook's first answer."
    )
    servers_per_user: int = Field(20, gt=0, description="Live servers of one person (T30).")


class KeyFolders(Model):
    """Where the Secrets are mounted."""

    tunnel_ca: str = Field(
        "/etc/jupyterhub-comet/tunnel-ca", description="Folder with ca, ca.pub, host-ca.pub."
    )
    login: str = Field("/etc/jupyterhub-comet/login", description="Folder with ca, ca.pub.")


class Settings(Model):
    """The whole of comet.yaml."""

    clusters: dict[str, ClusterSettings] = Field(min_length=1)
    profiles: dict[str, Profile] = Field(min_length=1)
    default_profile: str = Field("", description="Empty: the first by name.")
    accounts: dict[str, str] = Field(
        default_factory=dict,
        description="Hub name to cluster account, where the two differ.",
    )
    tunnelbot: GatewaySettings
    spawn: SpawnSettings = SpawnSettings()
    keys: KeyFolders = KeyFolders()

    @field_validator("clusters", "profiles")
    @classmethod
    def _plain_names(cls, value: dict[str, object]) -> dict[str, object]:
        for name in value:
            if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,39}", name):
                raise ValueError(f"{name!r}: names are lower-case letters, digits and hyphens")
        return value

    @model_validator(mode="after")
    def _references_exist(self) -> Settings:
        for name, profile in self.profiles.items():
            if profile.cluster not in self.clusters:
                raise ValueError(
                    f"profiles.{name}.cluster is {profile.cluster!r}, "
                    f"but clusters are {', '.join(self.clusters)}"
                )
        if self.default_profile and self.default_profile not in self.profiles:
            raise ValueError(
                f"defaultProfile is {self.default_profile!r}, "
                f"but profiles are {', '.join(self.profiles)}"
            )
        return self

    def first_profile(self) -> str:
        """Name of the profile that a form shows first."""
        return self.default_profile or next(iter(self.profiles))


def parse_settings(text: str, source: str = "comet.yaml") -> Settings:
    """Settings from YAML.

    Raises:
        SettingsBroken: names each wrong key, dotted, with what is wrong.
    """
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as exc:
        raise SettingsBroken(f"{source} is not YAML: {exc}") from exc
    try:
        return Settings.model_validate(data)
    except ValidationError as exc:
        lines = [
            f"{'.'.join(str(part) for part in error['loc']) or 'top level'}: {error['msg']}"
            for error in exc.errors(include_url=False, include_input=False)
        ]
        raise SettingsBroken(f"{source}: " + "; ".join(lines)) from exc


class SettingsFile:
    """A settings file that is read again when it changes.

    Args:
        path: the mounted file. Kubernetes swaps a symlink, so its time and inode change.

    Raises:
        SettingsBroken: at construction, where no good file was there yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = self._now()
        self._settings = self._read()

    def current(self) -> Settings:
        """The newest good settings; a broken change is logged once and not taken."""
        stamp = self._now()
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._settings = self._read()
                log.info("settings read again from %s", self._path)
            except SettingsBroken as exc:
                log.error("settings not taken, the last good ones stay: %s", exc)
        return self._settings

    def _now(self) -> tuple[int, int, int]:
        try:
            stat = self._path.stat()
        except OSError:
            return (0, 0, 0)
        return (stat.st_mtime_ns, stat.st_ino, stat.st_size)

    def _read(self) -> Settings:
        try:
            text = self._path.read_text()
        except OSError as exc:
            raise SettingsBroken(f"{self._path} cannot be read: {exc.strerror}") from exc
        return parse_settings(text, str(self._path))
