"""The options form: profiles in, HTML out; form data in, user_options out (pure).

It works without JavaScript: every profile has its own fields, named ``FIELD:PROFILE``, and
only those of the chosen profile count. What they hold is checked in slurm/options.py, for the
form and the REST API alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources

from jinja2 import Environment

from .settings import Profile, Settings, walltime_seconds

FIELDS = ("cores", "gpus", "walltime", "account")


def render_form(settings: Settings) -> str:
    """The HTML between JupyterHub's ``<form>`` tags."""
    source = resources.files("jupyterhub_comet").joinpath("templates", "form.html").read_text()
    template = Environment(autoescape=True).from_string(source)
    return template.render(
        profiles=settings.profiles,
        chosen=settings.first_profile(),
        several_clusters=len(settings.clusters) > 1,
        clusters=settings.clusters,
        describe_walltime=describe_walltime,
        describe_node=describe_node,
    )


def options_from_form(data: Mapping[str, Sequence[str]]) -> dict[str, object]:
    """user_options from the form's data; fields left empty are left out."""
    profile = _first(data, "profile")
    options: dict[str, object] = {"profile": profile} if profile else {}
    for field in FIELDS:
        if value := _first(data, f"{field}:{profile}"):
            options[field] = int(value) if field in {"cores", "gpus"} and _is_int(value) else value
    return options


def _is_int(text: str) -> bool:
    # Anything else travels on as it is, to be refused by its field's name.
    return text.isascii() and text.isdigit()


def _first(data: Mapping[str, Sequence[str]], name: str) -> str:
    values = data.get(name) or [""]
    return values[0].strip()


def describe_walltime(text: str) -> str:
    """``08:00:00`` as people say it: ``8 hours``."""
    minutes = walltime_seconds(text) // 60
    hours, rest = divmod(minutes, 60)
    parts = []
    if hours:
        parts.append(f"{hours} hour{'s' if hours != 1 else ''}")
    if rest or not hours:
        parts.append(f"{rest} minute{'s' if rest != 1 else ''}")
    return " ".join(parts)


def describe_node(profile: Profile) -> str:
    """Where a profile runs, in one line."""
    parts = [f"partition {profile.partition}"] if profile.partition else []
    if profile.exclusive:
        parts.append("whole node")
    if profile.memory_mb:
        parts.append(f"{profile.memory_mb / 1024:.0f} GiB of memory")
    return ", ".join(parts)
