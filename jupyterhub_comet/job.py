"""What one job carries: its certificate, what it must know of the gateway, its notebook.

The certificate is the second wall; the first is the hub's registry, which tunnelbot asks at
every login. So its life is generous: pending limit, walltime and an hour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from .errors import KeyBroken
from .settings import Profile, Settings
from .slurm.script import render_script
from .ssh.certificate import BACKDATE, issue_tunnel_certificate
from .ssh.keys import load_private_key
from .starter import starter_source
from .state import ServerState

# Stands for the hub's address in the notebook's environment; the starter, which alone knows
# its loopback port, replaces it. ".invalid" never resolves (RFC 6761).
HUB_PLACEHOLDER = "http://hub-api.invalid"

_SPARE = timedelta(hours=1)


def make_script(
    settings: Settings,
    profile: Profile,
    state: ServerState,
    *,
    environment: Mapping[str, str],
    args: Sequence[str],
    hub_prefix: str,
    prologue: str,
    epilogue: str,
) -> str:
    """The job script for one server, with a fresh key and certificate inside.

    Args:
        environment: JupyterHub's for the notebook; it holds the server's API token, so the
            script is secret and travels by sbatch's standard input only.
        args: more arguments for the notebook's command.
        hub_prefix: path prefix of the hub's API; nothing else passes the starter's relay.

    Raises:
        KeyBroken: the tunnel CA or the host CA's public key is missing or unreadable.
    """
    gateway = settings.tunnelbot
    folder = Path(settings.keys.tunnel_ca)
    now = datetime.now(UTC)
    end = now + timedelta(seconds=settings.spawn.pending_limit_seconds + state.walltime_s)
    issued = issue_tunnel_certificate(
        load_private_key(folder / "ca"),
        spawn=state.spawn,
        key_id=f"server/{state.user}/{state.server}",
        # Unique enough for an emergency's deny list; needs no counter that must be kept.
        serial=int(now.timestamp() * 1000),
        valid_after=now - BACKDATE,
        valid_before=end + _SPARE,
        key_type=gateway.key_type,
    )
    config = {
        "spawn": state.spawn,
        "gateway": {
            "host": gateway.hostname,
            "port": gateway.port,
            "host_key_alias": gateway.host_key_alias,
            "known_hosts": _known_hosts(folder / "host-ca.pub", gateway.host_key_alias),
            "proxy_command": gateway.proxy_command,
        },
        "private_key": issued.private_key,
        "certificate": issued.certificate,
        "hub_placeholder": HUB_PLACEHOLDER,
        "hub_prefix": hub_prefix,
        "command": [*profile.command, *args],
        "environment": {**environment, **profile.environment},
    }
    return render_script(
        config=config,
        python=profile.python,
        prologue=prologue,
        epilogue=epilogue,
        starter_source=starter_source(),
    )


def _known_hosts(path: Path, alias: str) -> str:
    """@cert-authority lines, one for each host CA (two while one replaces the other)."""
    try:
        lines = path.read_text().splitlines()
    except OSError as exc:
        raise KeyBroken(f"{path} cannot be read: {exc.strerror}") from exc
    keys = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not keys:
        raise KeyBroken(f"{path} holds no public key of a host CA")
    return "".join(f"@cert-authority {alias} {key}\n" for key in keys)
