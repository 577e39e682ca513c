"""What of a server must survive the hub: its spawn, job and port (pure).

The hub's database keeps it as the spawner's state, a JSON object. It is written inside
`start()` before sbatch runs, so that a killed hub finds its job again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime

from .errors import SettingsBroken


@dataclass(frozen=True)
class ServerState:
    """One server's life, from the moment before sbatch to its end.

    Attributes:
        spawn: the spawn id, principal of the job's certificate.
        port: the gateway's listen port for it.
        user: its hub user, and the name of the server (empty for the default one).
        cluster: name of the cluster in the settings.
        account: the Linux account there that submits and owns the job.
        created: when it was requested, ISO 8601 with time zone.
        walltime_s: seconds that the job may run.
        token_hash: the server's API token as JupyterHub stores it, to delete it at the end.
        job_id: Slurm's id; empty until sbatch has answered.
        submit_time: Slurm's submit time, ISO 8601; with id and account it names one job for
            ever, since ids come again when a controller loses its state.
        answered: the notebook has answered once, so the start is over.
        notebook_version: its JupyterHub version, for the hub's check of versions.
    """

    spawn: str
    port: int
    user: str
    server: str
    cluster: str
    account: str
    created: str
    walltime_s: int
    token_hash: str = ""
    job_id: str = ""
    submit_time: str = ""
    answered: bool = False
    notebook_version: str = ""

    @property
    def created_at(self) -> datetime:
        """When it was requested, with time zone."""
        return datetime.fromisoformat(self.created)

    @property
    def submitted_at(self) -> datetime | None:
        """Slurm's submit time, None until it is known."""
        return datetime.fromisoformat(self.submit_time) if self.submit_time else None

    def to_json(self) -> dict[str, object]:
        """As the database keeps it."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> ServerState:
        """From the database; keys of other versions of ours are left out.

        Raises:
            SettingsBroken: a key without a default is missing.
        """
        known = {field.name for field in fields(cls)}
        try:
            return cls(**{key: value for key, value in data.items() if key in known})  # type: ignore[arg-type]
        except TypeError as exc:
            raise SettingsBroken(f"the stored state of a server is incomplete: {exc}") from exc
