"""From what a person asked for to sbatch's arguments (pure).

`parse_options` is the one place where user_options, from the form or from the REST API, become
a request. Whatever is thrown at it, it returns a request within the profile's limits or raises
OptionRefused with the field's name and what is allowed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from jupyterhub_comet.errors import OptionRefused
from jupyterhub_comet.settings import Counts, Profile, Settings, walltime_seconds
from jupyterhub_comet.slurm.parse import parse_duration

OPTIONS = ("profile", "account", "cores", "gpus", "walltime")
"""The only keys of user_options."""

# What a profile fixes: asking for it gets an answer that leads to the profiles.
_OF_THE_PROFILE = frozenset({"partition", "nodes", "memory", "qos", "reservation", "exclusive"})

# Allocations as sites name them (TG-ABC123456, abc-123_x, abc.def); never a leading hyphen.
_ACCOUNT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", re.ASCII)
_WHOLE_NUMBER = re.compile(r"[0-9]{1,6}", re.ASCII)
_HOURS = re.compile(r"[0-9]{1,4}(?:\.[0-9]{1,2})?", re.ASCII)
_LONGEST_SHOWN = 40


@dataclass(frozen=True)
class JobRequest:
    """What one server asks of Slurm; every value is within its profile's limits."""

    cluster: str
    profile: str
    partition: str
    account: str
    """The allocation; empty: the user's default in Slurm."""
    qos: str
    nodes: int
    cores: int | None
    """Of the whole job; None: Slurm decides."""
    memory_mb: int | None
    """Of the whole job; None: Slurm decides."""
    gpus: int
    """Of the whole job."""
    gpu_type: str
    walltime_s: int
    exclusive: bool
    reservation: str


def parse_options(settings: Settings, user_options: Mapping[str, object]) -> JobRequest:
    """Check user_options against the settings; an option that is absent has its default.

    Args:
        settings: profiles and their limits.
        user_options: any JSON value per key; a list of one is taken as its item, which is how
            a form's data arrives.

    Raises:
        OptionRefused: names the field and what is allowed; nothing else is ever raised.
    """
    if not isinstance(user_options, Mapping):
        raise OptionRefused("options", f"must be an object with {_listed(OPTIONS)}")
    values = {key: _unwrapped(value) for key, value in user_options.items()}
    _check_keys(settings, values)
    name = _profile_name(settings, values.get("profile"))
    profile = settings.profiles[name]
    return JobRequest(
        cluster=profile.cluster,
        profile=name,
        partition=profile.partition,
        account=_account(profile, values.get("account")),
        qos=profile.qos,
        nodes=profile.nodes,
        cores=_count(name, "cores", profile.cores, values.get("cores")),
        memory_mb=profile.memory_mb,
        gpus=_count(name, "gpus", profile.gpus, values.get("gpus")) or 0,
        gpu_type=profile.gpu_type,
        walltime_s=_walltime(profile, values.get("walltime")),
        exclusive=profile.exclusive,
        reservation=profile.reservation,
    )


def _unwrapped(value: object) -> object:
    if isinstance(value, list) and len(value) == 1:
        return value[0]
    return value


def _check_keys(settings: Settings, values: Mapping[str, object]) -> None:
    for key in values:
        if key in OPTIONS:
            continue
        if key in _OF_THE_PROFILE:
            known = _listed(
                f"{name} ({profile.partition or 'default partition'})"
                for name, profile in settings.profiles.items()
            )
            raise OptionRefused(key, f"comes with the profile; choose a profile of {known}")
        raise OptionRefused(_shown(key), f"is no option; the options are {_listed(OPTIONS)}")


def _profile_name(settings: Settings, value: object) -> str:
    if value is None or value == "":
        return settings.first_profile()
    if isinstance(value, str) and value in settings.profiles:
        return value
    raise OptionRefused(
        "profile", f"{_shown(value)} does not exist; choose {_listed(settings.profiles)}"
    )


def _account(profile: Profile, value: object) -> str:
    if value is None or value == "":
        return profile.account.default
    if not isinstance(value, str) or _ACCOUNT.fullmatch(value) is None:
        raise OptionRefused(
            "account",
            f"{_shown(value)} is no account name; one has letters, digits, dots, hyphens and "
            "underscores, up to 64, and no hyphen or dot at its start",
        )
    choices = profile.account.choices
    if choices and value not in choices and value != profile.account.default:
        raise OptionRefused("account", f"{_shown(value)} is not offered; choose {_listed(choices)}")
    return value


def _count(profile: str, field: str, counts: Counts | None, value: object) -> int | None:
    if value is None or value == "":
        return counts.default if counts else None
    number = _whole_number(value)
    if counts is None:
        if field == "gpus" and number == 0:
            return None
        raise OptionRefused(field, f"cannot be chosen with the profile {profile}; leave it out")
    if number not in counts.choices:
        allowed = _listed(str(choice) for choice in counts.choices)
        raise OptionRefused(field, f"{_shown(value)} is not offered by {profile}; choose {allowed}")
    return number


def _whole_number(value: object) -> int | None:
    if isinstance(value, bool):  # an int for Python, not for people
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and _WHOLE_NUMBER.fullmatch(value.strip()):
        return int(value)
    return None


def _walltime(profile: Profile, value: object) -> int:
    if value is None or value == "":
        return walltime_seconds(profile.walltime.default)
    seconds = _seconds(value)
    if seconds not in {walltime_seconds(choice) for choice in profile.walltime.choices}:
        raise OptionRefused(
            "walltime",
            f"{_shown(value)} is not offered; choose {_listed(profile.walltime.choices)}",
        )
    return seconds


def _seconds(value: object) -> int:
    """Seconds of a walltime; 0, which no profile offers, for anything else.

    A bare number is hours, as in the form of 2016; Slurm's own reading, minutes, would
    surprise whoever does not know sbatch.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return round(value * 3600) if 0 < value < 10_000 else 0
    if not isinstance(value, str):
        return 0
    text = value.strip()
    if _HOURS.fullmatch(text):
        return round(float(text) * 3600)
    try:
        return parse_duration(text) or 0
    except ValueError:
        return 0


def _shown(value: object) -> str:
    """A value in a message: one short line of ASCII, whatever it was."""
    text = value if isinstance(value, str) else type(value).__name__
    if isinstance(value, int | float):
        text = str(value) if abs(value) < 1e9 else "a huge number"
    shown = ascii(text)[1:-1]
    return shown if len(shown) <= _LONGEST_SHOWN else shown[: _LONGEST_SHOWN - 3] + "..."


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)


def request_argv(
    request: JobRequest, *, spawn: str, job_name: str, output: str, extra: Sequence[str] = ()
) -> list[str]:
    """sbatch's arguments for a request, without ``sbatch`` itself.

    Args:
        request: checked by `parse_options`.
        spawn: the spawn id; as the comment it finds a job whose id was lost.
        job_name: shown by squeue to everybody.
        output: file for what the job prints; relative to the home directory.
        extra: the site's own arguments; last, since the last of two wins.

    Everything is an argument: SBATCH_* variables of a login environment would beat #SBATCH
    lines. No --chdir: commands run in the login node's home directory, and so does the job.
    """
    argv = [
        "--parsable",
        # The job's environment is what its script exports, nothing of the login node's.
        "--export=NONE",
        # A second life would come without the user's doing; a site allows it by `extra`.
        "--no-requeue",
        f"--job-name={job_name}",
        f"--comment={spawn}",
        f"--output={output}",
        f"--time={_slurm_time(request.walltime_s)}",
        f"--nodes={request.nodes}",
        # One task a node: the batch script is that task, and all cores of the node are its own.
        f"--ntasks={request.nodes}",
    ]
    # These three are counts per node for Slurm and of the whole job for us.
    if request.cores is not None:
        argv.append(f"--cpus-per-task={_per_node(request.cores, request)}")
    if request.memory_mb is not None:
        argv.append(f"--mem={_per_node(request.memory_mb, request)}M")
    if request.gpus:
        kind = f"gpu:{request.gpu_type}" if request.gpu_type else "gpu"
        argv.append(f"--gres={kind}:{_per_node(request.gpus, request)}")
    named = {
        "partition": request.partition,
        "account": request.account,
        "qos": request.qos,
        "reservation": request.reservation,
    }
    argv += [f"--{option}={value}" for option, value in named.items() if value]
    if request.exclusive:
        argv.append("--exclusive")
    return [*argv, *extra]


def _per_node(total: int, request: JobRequest) -> int:
    return math.ceil(total / request.nodes)


def _slurm_time(seconds: int) -> str:
    """``D-HH:MM:SS``, the one form of --time that cannot be read in two ways."""
    minutes, second = divmod(seconds, 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return f"{days}-{hour:02}:{minute:02}:{second:02}"
