"""This machine's own settings of apt, pip and npm, carried into builds.

Where a network has mirrors, proxies or a certificate authority of its own, they are set up on
the machine; a build in a container knows nothing of them. Only what says where and how to
download is taken over, as files mounted during the build, so that none of it stays in an image.
"""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from local.commands import ask
from local.errors import CommandFailed

_AUTHORITY_VARIABLES = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_AUTHORITY_FILES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")
# Where the bundle is inside a build. Not in /etc/ssl/certs: a Dockerfile may install
# ca-certificates, which writes there.
AUTHORITY_INSIDE = "/etc/comet-build-ca.crt"
_PIP_KEYS = frozenset(
    {"index-url", "extra-index-url", "trusted-host", "proxy", "timeout", "default-timeout"}
    | {"retries", "find-links"}
)
_NPM_KEYS = re.compile(
    r"(@[^:]+:)?registry|//.*|strict-ssl|proxy|https?-proxy|noproxy|fetch-.*|maxsockets"
)
_APT_OPTIONS = re.compile(
    r"^(Acquire::(?:(?:https?|ftp)::(?!.*(?:CaInfo|CAInfo|CaPath|Ssl))\S+|Check-Valid-Until"
    r'|Check-Date|Retries|ForceIPv[46])) "(.+)";$',
    re.MULTILINE,
)


@dataclass(frozen=True)
class Mirrors:
    """Where Debian's packages come from; empty: the usual places."""

    main: str = ""
    security: str = ""


def find_authorities(environment: Mapping[str, str] = os.environ) -> Path | None:
    """Return the machine's bundle of certificate authorities; None when it has none."""
    named = (environment.get(name, "") for name in _AUTHORITY_VARIABLES)
    for name in (*named, *_AUTHORITY_FILES):
        if name and Path(name).is_file():
            return Path(name)
    return None


def render_pip(environment: Mapping[str, str], files: Iterable[Path]) -> str:
    """Render a pip.conf for builds from the machine's files and PIP_ variables."""
    settings: dict[str, str] = {}
    for path in files:
        parser = configparser.RawConfigParser()
        with suppress(configparser.Error):
            parser.read(path)
        for section in ("global", "install"):
            if parser.has_section(section):
                settings |= dict(parser.items(section))
    for name, value in environment.items():
        if name.startswith("PIP_"):
            settings[name.removeprefix("PIP_").lower().replace("_", "-")] = value
    kept = {name: value for name, value in settings.items() if name in _PIP_KEYS}
    # A folder of wheels on this machine is not in the build.
    if "://" not in kept.get("find-links", "://"):
        del kept["find-links"]
    lines = [f"{name} = {value.strip()}" for name, value in sorted(kept.items())]
    return "\n".join(["[global]", f"cert = {AUTHORITY_INSIDE}", *lines, ""])


def render_npm(environment: Mapping[str, str], files: Iterable[Path]) -> str:
    """Render an npmrc for builds from the machine's files and npm_config_ variables."""
    settings: dict[str, str] = {}
    for path in files:
        with suppress(OSError):
            for line in path.read_text(errors="replace").splitlines():
                name, equals, value = line.partition("=")
                if equals and not line.lstrip().startswith((";", "#")):
                    settings[name.strip()] = value.strip()
    for name, value in environment.items():
        if name.lower().startswith("npm_config_"):
            settings[name[len("npm_config_") :].lower().replace("_", "-")] = value
    kept = {name: value for name, value in settings.items() if _NPM_KEYS.fullmatch(name)}
    lines = [f"{name}={value}" for name, value in sorted(kept.items())]
    return "\n".join([f"cafile={AUTHORITY_INSIDE}", *lines, ""])


def write_build_files(folder: Path, environment: Mapping[str, str] = os.environ) -> dict[Path, str]:
    """Write the files of a build and return each with the path that it is mounted at."""
    home = Path(environment.get("HOME", "/root"))
    authorities = find_authorities(environment)
    if authorities is None:
        return {}
    pip_files = (Path("/etc/pip.conf"), home / ".pip/pip.conf", home / ".config/pip/pip.conf")
    npm_files = (Path("/etc/npmrc"), home / ".npmrc")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    pip, npm = folder / "pip.conf", folder / "npmrc"
    pip.write_text(render_pip(environment, pip_files))
    npm.write_text(render_npm(environment, npm_files))
    return {authorities: AUTHORITY_INSIDE, pip: "/etc/pip.conf", npm: "/root/.npmrc"}


def find_apt_options() -> list[str]:
    """List the machine's apt options on proxies and checks, as `Name "value"`."""
    with suppress(CommandFailed):
        dump = ask(["apt-config", "dump", "Acquire"])
        return [f'{name} "{value}"' for name, value in _APT_OPTIONS.findall(dump)]
    return []


def find_mirrors(folder: Path = Path("/etc/apt")) -> Mirrors:
    """Take the mirrors from apt's sources where this machine is a Debian."""
    paths = [folder / "sources.list", *sorted((folder / "sources.list.d").glob("*"))]
    text = "\n".join(
        path.read_text(errors="replace")
        for path in paths
        if path.suffix in (".list", ".sources") and path.is_file()
    )
    return parse_mirrors(text)


def parse_mirrors(text: str) -> Mirrors:
    """Find Debian's own archives in apt sources of either form (pure)."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    urls = re.findall(r"(?:^URIs:\s*|^deb (?:\[[^]]*\] )?)(https?://\S+)", "\n".join(lines), re.M)
    security = [url for url in urls if url.rstrip("/").endswith("debian-security")]
    main = [url for url in urls if url.rstrip("/").endswith("debian")]
    return Mirrors(*(found[0] if found else "" for found in (main, security)))
