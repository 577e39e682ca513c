"""JupyterHub's configuration in the stand-in chart: values in, traits out.

Written for tests/data/z2jh-4.4.0.json: the same mounted folders, the same order (values, then
services, then secrets, then hub.config, then hub.extraConfig by key) and the same defaults that
jupyterhub-comet has to live with, such as slow_spawn_timeout 0.
"""

import os
from pathlib import Path

import yaml
from tornado.httpclient import AsyncHTTPClient

c = get_config()  # noqa: F821 - JupyterHub puts it here

ROOT = Path("/usr/local/etc/jupyterhub")
SECRETS = (ROOT / "existing-secret", ROOT / "secret")

# Value under `hub:` -> trait of JupyterHub, for those that are taken as they are.
PLAIN = {
    "activeServerLimit": "active_server_limit",
    "allowNamedServers": "allow_named_servers",
    "authenticatePrometheus": "authenticate_prometheus",
    "baseUrl": "base_url",
    "concurrentSpawnLimit": "concurrent_spawn_limit",
    "namedServerLimitPerUser": "named_server_limit_per_user",
    "redirectToServer": "redirect_to_server",
    "shutdownOnLogout": "shutdown_on_logout",
    "templatePaths": "template_paths",
    "templateVars": "template_vars",
}
# Traits of hub.config that only a Secret may set.
SECRET_TRAITS = {
    "JupyterHub": ("cookie_secret", "proxy_auth_token", "services"),
    "ConfigurableHTTPProxy": ("auth_token",),
    "CryptKeeper": ("keys",),
}


def overlay(below, above):
    """Mapping `above` laid over `below`, key by key at any depth."""
    result = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = overlay(result[key], value) if both else value
    return result


def read_values():
    """The chart's values, under those of hub.existingSecret where it has any."""
    values = {}
    for folder in reversed(SECRETS):
        path = folder / "values.yaml"
        if path.exists():
            values = overlay(values, yaml.safe_load(path.read_text()) or {})
    return values


def secret(key):
    """Content of a Secret's key: hub.existingSecret first, then the chart's own."""
    for folder in SECRETS:
        if (folder / key).exists():
            return (folder / key).read_text()
    raise KeyError(f"neither Secret has {key}")


def set_services(values):
    """hub.services, hub.loadRoles and the idle culler."""
    services = []
    roles = []
    cull = values["cull"]
    if cull["enabled"]:
        base = values["hub"]["baseUrl"].rstrip("/")
        command = ["python3", "-m", "jupyterhub_idle_culler"]
        command.append(f"--url=http://localhost:8081{base}/hub/api")
        for key, option in (
            ("timeout", "timeout"),
            ("every", "cull-every"),
            ("concurrency", "concurrency"),
            ("maxAge", "max-age"),
        ):
            if cull[key]:
                command.append(f"--{option}={cull[key]}")
        scopes = ["list:users", "read:users:activity", "read:servers", "delete:servers"]
        if cull["users"]:
            command.append("--cull-users")
            scopes.append("admin:users")
        if not cull["adminUsers"]:
            command.append("--cull-admin-users=false")
        if cull["removeNamedServers"]:
            command.append("--remove-named-servers")
        services.append({"name": "jupyterhub-idle-culler", "command": command})
        name = "jupyterhub-idle-culler"
        roles.append({"name": name, "scopes": scopes, "services": [name]})
    for name, service in values["hub"]["services"].items():
        token = secret(f"hub.services.{name}.apiToken")
        rest = {key: value for key, value in service.items() if key != "apiToken"}
        services.append({"name": name, **rest, "api_token": token})
    roles.extend({"name": name, **role} for name, role in values["hub"]["loadRoles"].items())
    c.JupyterHub.services = services
    c.JupyterHub.load_roles = roles


def set_hub(values):
    """What the chart decides, and the plain values."""
    hub = values["hub"]
    AsyncHTTPClient.configure("tornado.curl_httpclient.CurlAsyncHTTPClient")
    c.ConfigurableHTTPProxy.api_url = os.environ["STANDIN_PROXY_API_URL"]
    c.ConfigurableHTTPProxy.should_start = False
    c.JupyterHub.cleanup_servers = False
    c.JupyterHub.last_activity_interval = 60
    c.JupyterHub.tornado_settings = {"slow_spawn_timeout": 0}
    c.JupyterHub.hub_bind_url = "http://:8081"
    c.JupyterHub.hub_connect_url = os.environ["STANDIN_HUB_URL"]
    if hub["db"]["type"] == "sqlite-pvc":
        c.JupyterHub.db_url = "sqlite:///jupyterhub.sqlite"
    elif hub["db"]["type"] == "sqlite-memory":
        c.JupyterHub.db_url = "sqlite://"
    else:
        c.JupyterHub.db_url = hub["db"]["url"]
    for key, trait in PLAIN.items():
        if hub.get(key) is not None:
            c.JupyterHub[trait] = hub[key]
    if hub["consecutiveFailureLimit"] is not None:
        c.Spawner.consecutive_failure_limit = hub["consecutiveFailureLimit"]
    c.Spawner.cmd = values["singleuser"]["cmd"]
    if values["singleuser"]["defaultUrl"]:
        c.Spawner.default_url = values["singleuser"]["defaultUrl"]
    if values["debug"]["enabled"]:
        c.JupyterHub.log_level = "DEBUG"
        c.Spawner.debug = True


def set_sections(sections):
    """hub.config: a section of traits for each class."""
    for section, traits in sections.items():
        if not section[0].isupper():
            raise SystemExit(f"hub.config.{section}: a section is a class, with a capital")
        hidden = SECRET_TRAITS.get(section, ())
        c[section].update({key: value for key, value in traits.items() if key not in hidden})


values = read_values()
set_hub(values)
set_services(values)
c.JupyterHub.cookie_secret = secret("hub.config.JupyterHub.cookie_secret")
c.CryptKeeper.keys = secret("hub.config.CryptKeeper.keys").split(";")
set_sections(values["hub"]["config"])
for name, lines in sorted(values["hub"]["extraConfig"].items()):
    print(f"extraConfig: {name}", flush=True)
    exec(compile(lines, f"extraConfig {name}", "exec"))  # noqa: S102 - what extraConfig is
