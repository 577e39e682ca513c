"""configure(c): all that the hub's configuration must say for servers on Slurm.

Called once, from jupyterhub_config.py or z2jh's extraConfig. It sets what would otherwise
end running jobs or swallow refusals, refuses settings of batchspawner's that nothing reads,
and leaves the rest to the administrator.
"""

from __future__ import annotations

from typing import Any

from .context import context
from .errors import SettingsBroken
from .handlers import HANDLERS, SERVICE_NAME

# Traits of batchspawner that CometSpawner does not use: it talks to Slurm in its own way.
_IGNORED = (
    "batch_script",
    "batch_submit_cmd",
    "batch_query_cmd",
    "batch_cancel_cmd",
    "batchspawner_singleuser_cmd",
    "exec_prefix",
    "state_pending_re",
    "state_running_re",
    "state_exechost_re",
    "state_exechost_exp",
    "state_unknown_re",
)
_CLASSES = ("BatchSpawnerBase", "BatchSpawnerRegexStates", "SlurmSpawner", "CometSpawner")

# Seconds that a request for a start waits for a refusal before it says "pending"; z2jh's 0
# would answer 201 to everything.
_SLOW_SPAWN_S = 2


def configure(c: Any) -> None:
    """Set up JupyterHub's configuration object `c`.

    Raises:
        SettingsBroken: comet.yaml is missing or wrong, or a setting would be ignored; the
            hub does not start.
    """
    _refuse_ignored(c)
    limits = context().settings.spawn

    c.JupyterHub.spawner_class = "jupyterhub_comet.spawner.CometSpawner"
    c.JupyterHub.extra_handlers.extend(HANDLERS)
    c.JupyterHub.tornado_settings.update({"slow_spawn_timeout": _SLOW_SPAWN_S})
    _grant_service(c)

    # Each of these would end jobs that run well, or the hub itself.
    c.JupyterHub.cleanup_servers = False
    c.JupyterHub.shutdown_on_logout = False
    c.JupyterHub.concurrent_spawn_limit = 0
    c.Spawner.consecutive_failure_limit = 0
    c.Spawner.start_timeout = limits.pending_limit_seconds + limits.answer_limit_seconds
    c.Spawner.http_timeout = max(120, limits.answer_limit_seconds)


def _refuse_ignored(c: Any) -> None:
    wrong = [f"c.{owner}.{trait}" for owner in _CLASSES for trait in _IGNORED if trait in c[owner]]
    if wrong:
        raise SettingsBroken(
            f"{', '.join(wrong)} would be ignored: jupyterhub-comet talks to Slurm itself. "
            "Remove it; clusters and profiles belong in comet.yaml, defaults in req_*."
        )


def _grant_service(c: Any) -> None:
    """Tunnelbot's token may do nothing but what handlers.py lets it: no scopes at all."""
    services = c.JupyterHub.services
    known = services if isinstance(services, list) else services.get_value([])
    if not any(service.get("name") == SERVICE_NAME for service in known):
        raise SettingsBroken(
            f"c.JupyterHub.services has no service named {SERVICE_NAME!r}: "
            "the gateway could not report a single tunnel"
        )
