"""Certificates as OpenSSH itself reads them (ssh-keygen -L): principals, extensions, times."""

import re
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncssh
import pytest

from jupyterhub_comet.errors import KeyBroken, Refused
from jupyterhub_comet.ssh.certificate import (
    MAX_TUNNEL_LIFETIME,
    IssuedCertificate,
    issue_host_certificate,
    issue_login_certificate,
    issue_tunnel_certificate,
)
from jupyterhub_comet.ssh.keys import generate_private_key
from jupyterhub_comet.ssh.principal import new_spawn_id

pytestmark = [
    pytest.mark.unit,
    pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs OpenSSH's ssh-keygen"),
]

NOW = datetime.now(tz=UTC).replace(microsecond=0)
CA = generate_private_key("ed25519")


def shown(line: str, folder: Path) -> dict[str, list[str]]:
    """What ``ssh-keygen -L`` says, as field -> lines."""
    path = folder / "cert.pub"
    path.write_text(line + "\n")
    out = subprocess.run(
        ["ssh-keygen", "-L", "-f", str(path)],
        capture_output=True,
        text=True,
        check=True,
        env={"TZ": "UTC", "PATH": "/usr/bin:/bin"},
    ).stdout
    fields: dict[str, list[str]] = {}
    name = ""
    for text in out.splitlines()[1:]:
        match = re.match(r" {8}(\S[^:]*): ?(.*)", text)
        if match:
            name = match[1]
            fields[name] = [match[2].strip()] if match[2].strip() else []
        elif text.strip():
            fields[name].append(text.strip())
    return fields


def tunnel(
    spawn: str, *, key_id: str = "server/alice//", hours: float = 24, key_type: str = "ed25519"
) -> IssuedCertificate:
    return issue_tunnel_certificate(
        CA,
        spawn=spawn,
        key_id=key_id,
        serial=7,
        valid_after=NOW - timedelta(seconds=60),
        valid_before=NOW + timedelta(hours=hours),
        key_type=key_type,
    )


@pytest.mark.parametrize("key_type", ["ed25519", "ecdsa-p256"])
def test_a_tunnel_certificate_names_the_spawn_and_forwards_ports_only(
    tmp_path: Path, key_type: str
) -> None:
    spawn = new_spawn_id()
    issued = tunnel(spawn, key_type=key_type)
    fields = shown(issued.certificate, tmp_path)
    assert "user certificate" in fields["Type"][0]
    assert fields["Principals"] == [spawn]
    assert fields["Critical Options"] == ["(none)"]
    assert fields["Extensions"] == ["permit-port-forwarding"]
    assert fields["Serial"] == ["7"]
    assert fields["Valid"] == [
        f"from {NOW - timedelta(seconds=60):%Y-%m-%dT%H:%M:%S}"
        f" to {NOW + timedelta(hours=24):%Y-%m-%dT%H:%M:%S}"
    ]
    assert CA.get_fingerprint() in fields["Signing CA"][0]
    key = asyncssh.import_private_key(issued.private_key)
    certificate = asyncssh.import_certificate(issued.certificate)
    assert certificate.key is not None
    assert certificate.key.public_data == key.public_data


def test_openssh_reads_the_private_key_of_a_tunnel(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.touch(mode=0o600)
    path.write_text(tunnel(new_spawn_id()).private_key)
    subprocess.run(["ssh-keygen", "-y", "-P", "", "-f", str(path)], check=True, capture_output=True)


@pytest.mark.parametrize("spawn", ["", "root", "t-short", "t-" + "a" * 26 + ",root"])
def test_t9_no_tunnel_certificate_without_a_spawn_id(spawn: str) -> None:
    assert tunnel(new_spawn_id()).certificate
    with pytest.raises(KeyBroken, match="spawn id"):
        tunnel(spawn)


def test_the_key_id_is_cut_and_escaped(tmp_path: Path) -> None:
    issued = tunnel(new_spawn_id(), key_id="server/a\nlice\x1b[2J/" + "x" * 500)
    assert shown(issued.certificate, tmp_path)["Key ID"] == [
        '"server/a_lice__2J/' + "x" * (200 - 18) + '"'
    ]


def test_a_long_walltime_is_cut_to_eight_days() -> None:
    assert tunnel(new_spawn_id(), hours=24).valid_before == NOW + timedelta(hours=24)
    long = tunnel(new_spawn_id(), hours=24 * 30)
    assert long.valid_before == NOW - timedelta(seconds=60) + MAX_TUNNEL_LIFETIME


def test_an_end_before_the_start_is_refused() -> None:
    with pytest.raises(KeyBroken, match="cannot be signed"):
        tunnel(new_spawn_id(), hours=-1)


def test_a_login_certificate_names_one_account_and_permits_nothing(tmp_path: Path) -> None:
    key, certificate = issue_login_certificate(CA, account="Alice.b-1")
    fields = shown(certificate.export_certificate().decode().strip(), tmp_path)
    assert fields["Principals"] == ["Alice.b-1"]
    assert fields["Extensions"] == ["(none)"]
    assert fields["Critical Options"] == ["(none)"]
    assert certificate.key is not None
    assert certificate.key.public_data == key.public_data
    start, end = (datetime.fromisoformat(t) for t in fields["Valid"][0].split()[1::2])
    assert timedelta(seconds=355) <= end - start <= timedelta(seconds=365)


def test_a_login_certificate_carries_the_sites_limits(tmp_path: Path) -> None:
    _, certificate = issue_login_certificate(
        CA,
        account="alice",
        source_addresses=["192.0.2.7", "2001:db8::/64"],
        force_command="/usr/sbin/comet-wrapper",
    )
    fields = shown(certificate.export_certificate().decode().strip(), tmp_path)
    assert fields["Critical Options"] == [
        "force-command /usr/sbin/comet-wrapper",
        "source-address 192.0.2.7/32,2001:db8::/64",
    ]


@pytest.mark.parametrize(
    "account",
    ["root", "Root", "slurm", "munge", "", "-x", "a b", "a,root", "a\n", "../x", "a" * 33, "ålice"],
)
def test_t38_no_login_certificate_for_system_accounts_or_odd_names(account: str) -> None:
    with pytest.raises(Refused):
        issue_login_certificate(CA, account=account)


def test_a_host_certificate_names_the_host(tmp_path: Path) -> None:
    host = generate_private_key("ed25519")
    line = issue_host_certificate(
        CA, host, principals=["comet-tunnelbot"], valid_before=NOW + timedelta(days=730), serial=3
    )
    fields = shown(line, tmp_path)
    assert "host certificate" in fields["Type"][0]
    assert fields["Principals"] == ["comet-tunnelbot"]


@pytest.mark.parametrize("principals", [[], [""]])
def test_a_host_certificate_for_every_host_is_refused(principals: list[str]) -> None:
    with pytest.raises(KeyBroken, match="principals"):
        issue_host_certificate(
            CA,
            generate_private_key("ed25519"),
            principals=principals,
            valid_before=NOW + timedelta(days=1),
            serial=1,
        )
