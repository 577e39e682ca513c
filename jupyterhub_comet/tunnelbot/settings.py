"""tunnelbot.yaml: the gateway's settings, camelCase in the file, unknown keys refused."""

import ipaddress
import os
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from jupyterhub_comet.errors import SettingsBroken

Port = Annotated[int, Field(ge=1, le=65535)]


class Model(BaseModel):
    """Base of all settings: frozen, strict about keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True
    )


class Listen(Model):
    """Where a server of ours listens; port 0 lets the kernel choose (tests)."""

    host: str = "0.0.0.0"  # noqa: S104 - in a pod; NetworkPolicies say who may come
    port: int = Field(ge=0, le=65535)


class Hub(Model):
    """The hub: its API for tunnelbot itself, and the one place jobs may reach through us."""

    api_url: str = Field(
        "http://hub:8081/hub/api", description="Base of the hub's API, without a slash at its end."
    )
    forward_host: str = Field("hub", description="Where `-L ...:hub:8081` of a job leads.")
    forward_port: Port = 8081
    token_file: Path = Field(
        Path("/etc/tunnelbot/token/token"),
        description="The service token; read again when the hub refuses it.",
    )


class PortRange(Model):
    """Listen ports that the hub may assign, both ends included."""

    first: Port = 20000
    last: Port = 29999

    @model_validator(mode="after")
    def _ordered(self) -> "PortRange":
        if self.first > self.last:
            raise ValueError(f"first ({self.first}) is above last ({self.last})")
        return self

    def __contains__(self, port: int) -> bool:
        return self.first <= port <= self.last


class GatewaySettings(Model):
    """All of tunnelbot.yaml."""

    listen: Listen = Listen(port=2222)
    admin: Listen = Listen(port=8080)
    hub: Hub = Hub()
    keys_folder: Path = Path("/etc/tunnelbot/keys")
    state_folder: Path = Path("/var/lib/tunnelbot")
    address: str = Field(
        "",
        description="This pod's IP address, where hub and proxy reach the notebooks' listen "
        "ports; empty: environment variable POD_IP.",
    )
    port_range: PortRange = PortRange()
    report_seconds: float = Field(15, gt=0, description="Seconds between full reports.")
    drain_seconds: float = Field(
        10, ge=0, description="Seconds over which the closing of tunnels is spread at SIGTERM."
    )

    @model_validator(mode="after")
    def _address_is_an_ip(self) -> "GatewaySettings":
        try:
            ipaddress.ip_address(self.address)
        except ValueError:
            raise ValueError(
                f"address {self.address!r} is not an IP address; set it, or POD_IP"
            ) from None
        return self


def load_settings(path: Path) -> GatewaySettings:
    """Read tunnelbot.yaml; raises SettingsBroken, which names the file and the key."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except OSError as exc:
        raise SettingsBroken(f"{path}: {exc.strerror or exc}") from exc
    except yaml.YAMLError as exc:
        raise SettingsBroken(f"{path}: not YAML: {exc}") from exc
    if not isinstance(data, dict):
        raise SettingsBroken(f"{path}: must be a map of settings")
    if not data.get("address"):
        data["address"] = os.environ.get("POD_IP", "")
    try:
        return GatewaySettings.model_validate(data)
    except ValidationError as exc:
        parts = (
            ".".join(str(p) for p in error["loc"]) + ": " + error["msg"] for error in exc.errors()
        )
        raise SettingsBroken(f"{path}: {'; '.join(parts)}") from exc
